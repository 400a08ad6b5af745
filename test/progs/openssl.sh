# SPDX-License-Identifier: MIT
# openssl: known digests, every cipher and digest there and back, signatures of every kind of key, and
# speed, which checks nothing but runs each algorithm's fastest code for a second. The argument:
# digests, ciphers, keys, speed.
. /progs/check.sh
mkdir work && cd work || exit 1
seq 1 20000 >numbers
head -c 100003 numbers >odd

digests()
{
	is md5 e071f707df7bbeee2a6a1eb48011ddd0 "$(openssl dgst -md5 -r numbers | cut -d' ' -f1)"
	is sha1 49972ff155d0d5fb6bb9d8f18a7a4c4a2ea9562c "$(openssl dgst -sha1 -r numbers | cut -d' ' -f1)"
	is sha256 f6351f5ead9a700e34275480b3856ea738122a7c57bdeb744a631251c069587a "$(openssl dgst -sha256 -r numbers | cut -d' ' -f1)"
	is sha512 ddaf35a193617abacc417349ae204131 "$(printf abc | openssl dgst -sha512 -r | cut -c1-32)"
	is sha3-256 3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532 "$(printf abc | openssl dgst -sha3-256 -r | cut -d' ' -f1)"
	is blake2s256 508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982 "$(printf abc | openssl dgst -blake2s256 -r | cut -d' ' -f1)"
	is sm3 66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0 "$(printf abc | openssl dgst -sm3 -r | cut -d' ' -f1)"
	is hmac f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8 \
		"$(printf 'The quick brown fox jumps over the lazy dog' | openssl dgst -sha256 -hmac key -r | cut -d' ' -f1)"
	is 'AES by its own name' 69c4e0d86a7b0430d8cdb78070b4c55a \
		"$(echo 00112233445566778899aabbccddeeff | xxd -r -p | openssl enc -aes-128-ecb -nopad -K 000102030405060708090a0b0c0d0e0f | xxd -p)"
	# In one piece, and in blocks of odd sizes.
	for name in $(openssl list -digest-commands); do
		one=$(openssl dgst -"$name" -r odd | cut -d' ' -f1)
		two=$(dd if=odd bs=37 2>/dev/null | openssl dgst -"$name" -r | cut -d' ' -f1)
		is "$name" "$one" "$two"
		is "$name, length" yes "$([ ${#one} -ge 32 ] && echo yes)"
	done
	# The assembly for this processor beside code for any.
	for name in md5 sha1 sha256 sha512 sha3-512; do
		is "$name without vectors" "$(openssl dgst -$name -r odd)" \
			"$(OPENSSL_ia32cap=0:0 openssl dgst -$name -r odd)"
	done
}

ciphers()
{
	for name in $(openssl list -cipher-commands); do
		case $name in
		zlib | base64) continue ;;
		esac
		what=$(openssl enc -"$name" -pbkdf2 -pass pass:ringer -in odd -out sealed 2>&1)
		case $what in
		*unsupported* | *"not supported"* | *"Unknown cipher"* | *"Error setting cipher"*)
			skipped="$skipped $name"
			continue
			;;
		esac
		is "$name" "$(md5sum <odd)" \
			"$(openssl enc -d -"$name" -pbkdf2 -pass pass:ringer -in sealed 2>/dev/null | md5sum)"
		is "$name hides" no "$(cmp -s odd sealed && echo yes || echo no)"
	done
	echo "not in the default provider:$skipped"
	for name in aes-128-cbc aes-256-ctr aes-192-cfb aes-128-ofb chacha20 camellia-256-cbc aria-128-ctr; do
		key=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
		case $name in
		*128*) key=00112233445566778899aabbccddeeff ;;
		*192*) key=00112233445566778899aabbccddeeff0011223344556677 ;;
		esac
		iv=0102030405060708090a0b0c0d0e0f10
		openssl enc -$name -K $key -iv $iv -in odd -out fast
		OPENSSL_ia32cap=0:0 openssl enc -$name -K $key -iv $iv -in odd -out slow
		is "$name without vectors" 0 "$(cmp fast slow; echo $?)"
	done
}

signed()
{
	ok "$1: public key" openssl pkey -in key -pubout -out pub
	case $1 in
	ed*) set -- "$1" -rawin ;;
	*) set -- "$1" -rawin -digest sha256 ;;
	esac
	what=$1
	shift
	ok "$what: sign" openssl pkeyutl -sign "$@" -inkey key -in odd -out sig
	ok "$what: verify" openssl pkeyutl -verify "$@" -pubin -inkey pub -in odd -sigfile sig
	is "$what: another text" 1 "$(openssl pkeyutl -verify "$@" -pubin -inkey pub -in numbers -sigfile sig >/dev/null 2>&1; echo $?)"
}

keys()
{
	ok 'genrsa' openssl genrsa -out key 2048
	ok 'the key is one' openssl rsa -in key -check -noout
	signed rsa2048
	printf secret >plain
	ok 'RSA encrypts' openssl pkeyutl -encrypt -pubin -inkey pub -pkeyopt rsa_padding_mode:oaep -in plain -out c
	is 'RSA decrypts' secret "$(openssl pkeyutl -decrypt -inkey key -pkeyopt rsa_padding_mode:oaep -in c)"
	for curve in prime256v1 secp384r1 secp521r1 secp256k1 brainpoolP256r1; do
		ok "$curve" openssl ecparam -name $curve -genkey -noout -out key
		signed $curve
	done
	for kind in ed25519 ed448; do
		ok $kind openssl genpkey -algorithm $kind -out key
		signed $kind
	done
	for kind in x25519 x448; do
		ok $kind openssl genpkey -algorithm $kind -out a
		ok $kind openssl genpkey -algorithm $kind -out b
		ok $kind openssl pkey -in a -pubout -out a.pub
		ok $kind openssl pkey -in b -pubout -out b.pub
		is "$kind: the same secret" "$(openssl pkeyutl -derive -inkey a -peerkey b.pub | md5sum)" \
			"$(openssl pkeyutl -derive -inkey b -peerkey a.pub | md5sum)"
	done
	is 'primes' '7 (7) is prime' "$(openssl prime 7)"
	is 'a large prime' yes "$(openssl prime 170141183460469231731687303715884105727 | grep -q 'is prime' && echo yes)"
	ok 'a certificate' openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem \
		-out c.pem -days 3650 -subj /CN=ringer -config /etc/ssl/openssl.cnf
	ok 'verifies' openssl verify -CAfile c.pem c.pem
	# TLS over the loopback.
	openssl s_server -accept 4433 -cert c.pem -key k.pem -www -quiet >server.out 2>&1 &
	server=$!
	for i in 1 2 3 4 5 6 7 8 9 10; do
		sleep 1
		printf 'GET / HTTP/1.0\r\n\r\n' | timeout 60 openssl s_client -connect 127.0.0.1:4433 -CAfile c.pem \
			-verify_return_error -ign_eof >client.out 2>&1 && break
	done
	kill $server
	is 'TLS 1.3' yes "$(grep -q 'Verify return code: 0 (ok)' client.out && grep -q TLSv1.3 client.out && echo yes)"
}

speed()
{
	for name in md5 sha1 sha256 sha512 aes-128-cbc aes-256-cbc ghash; do
		ok "speed $name" openssl speed -seconds 1 -bytes 8192 "$name"
		tail -n 1 /tmp/.ok
	done
	for name in aes-128-gcm aes-256-gcm aes-128-ctr chacha20-poly1305 sha3-256 camellia-128-cbc; do
		ok "speed $name" openssl speed -seconds 1 -bytes 8192 -evp "$name"
		tail -n 1 /tmp/.ok
	done
	for name in rsa2048 ecdsap256 ecdhx25519 ed25519; do
		ok "speed $name" openssl speed -seconds 1 $name
		tail -n 1 /tmp/.ok
	done
	n=$(nproc)
	[ "$n" = 1 ] || ok "speed on $n processors" openssl speed -seconds 1 -bytes 8192 -multi "$n" -evp aes-128-gcm
}

case $1 in
digests | ciphers | keys | speed) $1 ;;
*)
	echo "no part $1"
	exit 2
	;;
esac
finish
