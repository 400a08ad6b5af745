# SPDX-License-Identifier: MIT
# busybox's own programs: results that are known, and round trips.
. /progs/check.sh
mkdir work && cd work || exit 1

# Checksums; the values are those of GNU coreutils.
seq 1 20000 >numbers
is md5sum e071f707df7bbeee2a6a1eb48011ddd0 "$(md5sum <numbers | cut -d' ' -f1)"
is sha1sum 49972ff155d0d5fb6bb9d8f18a7a4c4a2ea9562c "$(sha1sum <numbers | cut -d' ' -f1)"
is sha256sum f6351f5ead9a700e34275480b3856ea738122a7c57bdeb744a631251c069587a "$(sha256sum <numbers | cut -d' ' -f1)"
is sha512sum 7686a0fb0b50564b3e6f2e2ab9bdcbd5 "$(sha512sum <numbers | cut -c1-32)"
is 'wc' '20000 20000 108894' "$(wc <numbers | awk '{ print $1, $2, $3 }')"

# Text.
seq 5000 -1 1 >down
seq 1 5000 >up
sort -n down | cmp - up
is 'sort -n' 0 $?
is 'sort' f4d44d248b0434457f5bef608f46fe77 "$(sort numbers | md5sum | cut -c1-32)"
is 'sort -k2,2nr -k1,1' 'd 9,a 7,b 7,c 1,' "$(printf 'c 1\nb 7\na 7\nd 9\n' | sort -k2,2nr -k1,1 | tr '\n' ,)"
tac up | cmp - down
is 'tac' 0 $?
is 'uniq -c' '3 a 1 b 2 c' "$(printf 'a\na\na\nb\nc\nc\n' | uniq -c | xargs echo)"
is 'sed s' 'h3ll0 w0rld' "$(echo 'hello world' | sed 's/e/3/;s/o/0/g')"
is 'sed, hold space' 'c b a' "$(printf 'a\nb\nc\n' | sed -n '1!G;h;$p' | xargs echo)"
is 'sed -E groups' '2026-11-21' "$(echo 21.11.2026 | sed -E 's/([0-9]+)\.([0-9]+)\.([0-9]+)/\3-\2-\1/')"
is 'sed y and ranges' 'BCD' "$(printf 'a\nb\nc\nd\ne\n' | sed -n '/b/,/d/{y/bcd/BCD/;p}' | tr -d '\n')"
is 'awk sum' 200010000 "$(awk '{ s += $1 } END { print s }' numbers)"
is 'awk floats' '0.464286 0.928571 1.392857' "$(awk 'BEGIN { for (i = 1; i <= 3; i++) printf "%s%.6f", (i > 1 ? " " : ""), i * 3.25 / 7 }')"
is 'awk strings' 'GER 3 ri-n-ger 1a' "$(awk 'BEGIN { s = "ringer"; n = split("a,b,c", p, ","); t = s; gsub(/n/, "-&-", t); printf "%s %d %s %x", toupper(substr(s, 4)), n, t, 26 }')"
is 'awk arrays' 'a=3 b=2 c=1' "$(echo 'a b c a b a' | tr ' ' '\n' | awk '{ n[$1]++ } END { for (k in n) print k "=" n[k] }' | sort | xargs echo)"
is 'awk primes' '1229 9973' "$(awk 'BEGIN { for (i = 2; i < 10000; i++) if (!s[i]) { n++; last = i; for (j = i * i; j < 10000; j += i) s[j] = 1 } print n, last }')"
is 'awk fib(20)' 6765 "$(awk 'function f(n) { return n < 2 ? n : f(n - 1) + f(n - 2) } BEGIN { print f(20) }')"
is 'grep -c' 6878 "$(grep -c 7 numbers)"
is 'grep -E' 3 "$(printf 'foo1\nbar22\nbaz333\nqux\n' | grep -cE '^[a-z]{3}[0-9]+$')"
is 'grep -o' '11 22 33' "$(echo a11b22c33 | grep -oE '[0-9]+' | xargs echo)"
is 'paste, cut' '1:a 2:b' "$(printf '1 x\n2 y\n' >l; printf 'a\nb\n' >r; cut -d' ' -f1 l | paste -d: - r | xargs echo)"
is 'tr classes' 'HELLO' "$(echo 'h e l l o' | tr -d ' ' | tr a-z A-Z)"
is 'fold, rev' 'cba fed hg' "$(echo abcdefgh | fold -w3 | rev | xargs echo)"
is 'nl' '1 a 2 b' "$(printf 'a\nb\n' | nl | xargs echo)"
is 'expand' '4a  b' "$(printf '4a\tb\n' | expand -t4)"
is 'xargs' '1 2,3 4,5,' "$(seq 1 5 | xargs -n2 echo | tr '\n' ,)"
is 'od' '101 102 103 012' "$(echo ABC | od -An -b | xargs echo)"
is 'hexdump' '41 42 43 0a' "$(echo ABC | hexdump -v -e '4/1 "%02x "' | xargs echo)"
is 'xxd' '00000000: 7269 6e67 6572 ringer' "$(printf ringer | xxd | xargs echo)"
is 'xxd -r' ringer "$(printf ringer | xxd -p | xxd -r -p)"
is 'strings' 'ringer' "$(printf '\001\002ringer\000\003' | strings)"
is 'factor' '4295098369: 65537 65537' "$(factor 4295098369)"
is 'printf' '00042 2a 52 3.14 x' "$(printf '%05d %x %o %.2f %s' 42 42 42 3.14159 x)"
is 'expr' '42 3' "$(expr 6 \* 7) $(expr match abcdef abc)"
is 'date' '2001-09-09T01:46:40' "$(date -u -d @1000000000 +%Y-%m-%dT%H:%M:%S)"
is 'diff' '-b +x' "$(printf 'a\nb\nc\n' >l; printf 'a\nx\nc\n' >r; diff l r | grep '^[-+][a-z]' | xargs echo)"

# Arithmetic.
is 'bc, 2^200' 1606938044258990275541962092341162602522202993782792835301376 "$(echo '2^200' | bc)"
is 'bc, e(1)' 2.71828182845904523536028747135266249775724709369995 "$(echo 'scale=50; e(1)' | bc -l)"
is 'bc, pi' 3.1415926535897932384626433832795028841968 "$(echo 'scale=40; 4*a(1)' | bc -l)"
is 'bc, 50!' 30414093201713378043612608166064768844377641568960512000000000000 \
	"$(printf 'define f(n) { if (n < 2) return (1); return (n * f(n - 1)); }\nf(50)\n' | BC_LINE_LENGTH=0 bc)"
is 'dc' '1.41421356237309504880' "$(echo '20k 2v p' | dc)"
is 'sh, loop' 2668667000 "$(i=0; s=0; while [ $i -lt 2000 ]; do i=$((i + 1)); s=$((s + i * i)); done; echo $s)"
is 'sh, arithmetic' '-6148914691236517205 4611686018427387904 -1 7' \
	"$((0xaaaaaaaaaaaaaaab)) $((1 << 62)) $((-7 / 4)) $(((5 & 6) | 3))"
is 'sh, functions' 720 "$(f() { if [ "$1" -lt 2 ]; then echo 1; else echo $(($1 * $(f $(($1 - 1))))); fi; }; f 6)"
is 'sh, expansion' 'b.c /a/b /a/b.c.d c' "$(x=/a/b.c; y=${x##*/}; echo "$y ${x%.*} $x.d ${x#*.}")"
is 'sh, here document' 'x=5 y' "$(x=5; cat <<END
x=$x y
END
)"
is 'sh, trap' 'caught' "$(sh -c 'trap "echo caught; exit" USR1; kill -USR1 $$; sleep 1; echo no')"

# Archives and compression: what went in comes out, by way of pipes.
mkdir -p tree/a/b
seq 1 3000 >tree/a/numbers
dd if=/dev/zero of=tree/a/b/zero bs=1k count=300 2>/dev/null
ln -s a/numbers tree/link
ln tree/a/numbers tree/hard
sum1=$(find tree -type f | sort | xargs sha256sum | sha256sum)
for way in z j J; do
	case $way in
	z) tar -czf t.tar.gz tree && mkdir out$way && tar -xzf t.tar.gz -C out$way ;;
	j) tar -cf - tree | bzip2 >t.tar.bz2 && mkdir out$way && tar -xjf t.tar.bz2 -C out$way ;;
	J) tar -cf - tree | cat >t.tar && mkdir out$way && tar -xf t.tar -C out$way ;;
	esac
	is "tar, $way" "$sum1" "$(cd out$way && find tree -type f | sort | xargs sha256sum | sha256sum)"
	is "tar, $way, link" a/numbers "$(readlink out$way/tree/link)"
done
is cpio "$sum1" "$(find tree | cpio -o -H newc 2>/dev/null >t.cpio; mkdir c; cd c; cpio -i 2>/dev/null <../t.cpio; find tree -type f | sort | xargs sha256sum | sha256sum)"
gzip -c numbers >n.gz
is 'gzip, gunzip' "$(md5sum <numbers)" "$(gunzip -c n.gz | md5sum)"
is 'gzip shrinks' yes "$([ "$(wc -c <n.gz)" -lt 50000 ] && echo yes)"
is 'bzip2, bunzip2' "$(md5sum <numbers)" "$(bzip2 -c numbers | bunzip2 -c | md5sum)"
is 'gzip of zeros' "$(dd if=/dev/zero bs=64k count=60 2>/dev/null | sha256sum)" \
	"$(dd if=/dev/zero bs=64k count=60 2>/dev/null | gzip | gunzip | sha256sum)"
is 'base64' "$(md5sum <numbers)" "$(base64 numbers | base64 -d | md5sum)"
is 'base64 of text' cmluZ2Vy "$(printf ringer | base64)"
is 'uuencode' "$(md5sum <numbers)" "$(uuencode -m n <numbers | uudecode -o - | md5sum)"
diff -u up down >p || :
cp up patched
patch patched p >/dev/null
is 'diff, patch' 0 "$(cmp patched down; echo $?)"

# Files.
dd if=/dev/urandom of=random bs=4k count=64 2>/dev/null
dd if=random of=copy bs=1000 2>/dev/null
is 'dd, odd blocks' 0 "$(cmp random copy; echo $?)"
dd if=random of=part bs=1 skip=1000 count=100 2>/dev/null
is 'dd skip' "$(tail -c +1001 random | head -c 100 | md5sum)" "$(md5sum <part)"
is 'dd seek' "$(sha256sum <random)" \
	"$(dd if=random of=sparse bs=4k seek=100 2>/dev/null; dd if=sparse bs=4k skip=100 2>/dev/null | sha256sum)"
is 'stat' 270336 "$(cp random r; cat random random >>r; truncate -s 270336 r; stat -c %s r)"
is 'find' 'tree/a tree/a/b tree/a/b/zero tree/hard' "$(find tree -path '*a*' ! -name numbers | sort | xargs echo)"
is 'find -size, -exec' 'tree/a/b/zero 307200' "$(find tree -size +200k -exec stat -c '%n %s' {} \;)"
is 'many files' 500 "$(mkdir many; i=0; while [ $i -lt 500 ]; do : >many/$i; i=$((i + 1)); done; ls many | wc -l)"
is 'rm -r' no "$(rm -r many; [ -d many ] && echo yes || echo no)"
mkfifo fifo
(cat fifo | md5sum >fifo.sum) &
cat numbers >fifo
wait
is 'fifo' "$(md5sum <numbers)" "$(cat fifo.sum)"
is 'processes' 100 "$(i=0; while [ $i -lt 100 ]; do (echo x) & i=$((i + 1)); done | wc -l; wait)"
is 'pipes' "$(md5sum <numbers)" "$(cat numbers | cat | tee /dev/null | cat | tail -n +1 | md5sum)"
is 'kill' 143 "$(sleep 100 & kill $!; wait $!; echo $?)"
is 'httpd, wget' "$(md5sum <numbers)" \
	"$(httpd -p 127.0.0.1:8080 -h . && wget -q -O - http://127.0.0.1:8080/numbers | md5sum; killall httpd)"
is 'nc' hello "$(nc -l -p 8081 >nc.out & sleep 1; echo hello | nc -w 2 127.0.0.1 8081; wait; cat nc.out)"
finish
