# SPDX-License-Identifier: MIT
# In the guest, from the shared folder /mnt/in: sh guest.sh PART SECONDS. soak.py says what the parts are.
export LC_ALL=C HOME=/root
mkdir -p /progs && cp /mnt/in/progs/* /progs
. /progs/check.sh
part=$1
seconds=$2
n=$(nproc)

# Compile the project in a folder with all processors, run it, and say what bits came out.
build()
{
	rm -rf "$1" && mkdir "$1" && cp /mnt/in/project/* "$1" && cd "$1" || exit 1
	ok "make in $1" make -s -j"$n"
	is "what it computes, made in $1" "$(cat expected)" "$(./project)"
	echo "bits: $(cat ./*.o project | sha256sum | cut -d' ' -f1)"
	ok "make again in $1" make -q
	cd /
}

# Somebody's own project: --source and --check of soak.py.
build_source()
{
	[ -d /mnt/in/source ] || return
	rm -rf "$1" && cp -r /mnt/in/source "$1" && cd "$1" || exit 1
	ok "the source, in $1" sh -c "make -j$n"
	if [ -s /mnt/in/check ]; then
		ok "its own check, in $1" sh /mnt/in/check
	fi
	cd / && rm -rf "$1"
}

as_user()
{
	setpriv --reuid 1000 --regid 1000 --clear-groups "$@"
}

not()
{
	! "$@"
}

# What root and an ordinary user may do in a folder.
permissions()
{
	d=$1/perm
	rm -rf "$d" && mkdir -p "$d/closed" && mkdir -m 1777 "$d/sticky" && chmod 700 "$d/closed"
	for f in closed/f secret open sticky/root; do echo root >"$d/$f"; done
	chmod 600 "$d/secret"
	chmod 644 "$d/closed/f" "$d/open" "$d/sticky/root"
	ok 'a user reads what is open' as_user cat "$d/open"
	ok 'not what is 600' not as_user cat "$d/secret"
	ok 'nor below what is 700' not as_user cat "$d/closed/f"
	ok 'nor writes 644' not as_user sh -c "echo x >>$d/open"
	ok 'nor makes a file where he may not' not as_user touch "$d/new"
	ok 'he makes one where all may' as_user sh -c "umask 022; echo u >$d/sticky/u"
	is 'it is his' 1000:1000:644 "$(stat -c %u:%g:%a "$d/sticky/u")"
	ok 'he cannot remove others from there' not as_user rm -f "$d/sticky/root"
	ok 'nor rename them' not as_user mv "$d/sticky/root" "$d/sticky/x"
	ok 'nor give his away' not as_user chown 0 "$d/sticky/u"
	ok 'nor change what is not his' not as_user chmod 777 "$d/open"
	ok 'nor its times' not as_user touch -d 2001-01-01 "$d/open"
	ok 'he sets his own mode' as_user chmod 4755 "$d/sticky/u"
	ok 'and writes' as_user sh -c "echo more >>$d/sticky/u"
	# By name alone a mode may be a second old; with the times it is asked for.
	is 'which takes set-user-id' 755 "$(stat -c '%a %y' "$d/sticky/u" | cut -d' ' -f1)"
	mkdir "$d/group" && chown 0:1000 "$d/group" && chmod 2775 "$d/group"
	ok 'a folder that gives its group' as_user sh -c "umask 022; mkdir $d/group/s; echo >$d/group/f"
	is 'to files' 1000 "$(stat -c %g "$d/group/f")"
	is 'and folders, with the bit' 1000:2755 "$(stat -c %g:%a "$d/group/s")"
	ok 'root may all' cat "$d/secret" "$d/sticky/u" "$d/closed/f"
	rm -rf "$d"
}

# ms WHAT COMMAND...: how long small files take.
ms()
{
	what=$1
	shift
	begin=$(date +%s%N)
	ok "$what" "$@"
	echo "time: $what $((($(date +%s%N) - begin) / 1000000)) ms"
}

share()
{
	cd /mnt/out && rm -rf ./* || exit 1
	ms 'clone' git clone -q /mnt/in/repo.git clone
	cd clone || exit 1
	is 'the commit' "$(cat /mnt/in/commit)" "$(git rev-parse HEAD)"
	ms 'fsck' git fsck --full --strict
	ms 'status' git status --short
	is 'a clean tree' '' "$(git status --porcelain)"
	ok 'a commit' sh -c 'echo x >new && git add new && git -c user.name=g -c user.email=g@g commit -qm new'
	ok 'a push' git push -q origin HEAD:refs/heads/from-guest-"$n"
	ok 'gc' git gc -q
	cd ..
	ms 'tar' tar cf clone.tar clone
	mkdir untar
	ms 'untar' tar xf clone.tar -C untar
	ok 'the same' diff -r clone untar/clone
	ms 'rm' rm -rf untar clone
	build /mnt/out/project
	build_source /mnt/out/source
	permissions /mnt/out
	cd /mnt/out || exit 1
	# Its argument is none, or squash.
	mkdir probe && /mnt/in/fsprobe /mnt/out/probe $1 >/tmp/probe 2>&1
	is 'fsprobe' 0 $?
	grep -E '^failed|passed' /tmp/probe
	rm -rf /mnt/out/probe
}

case $part in
build)
	build /root/project
	build_source /root/source
	;;
hackbench)
	command -v hackbench >/dev/null || { echo "no hackbench: make-image --packages rt-tests"; finish; }
	for how in '' -T -p '-p -T'; do
		ok "hackbench $how" hackbench -g 4 -l 100 $how
		tail -n 1 /tmp/.ok
	done
	;;
stress)
	sh /progs/stress.sh smp "$seconds"
	exit
	;;
files)
	# What RCU frees: names, mounts, tasks, while all processors read them.
	i=0
	while [ $i -lt $((n * 2)) ]; do
		(
			mkdir -p /tmp/r$i
			end=$(($(date +%s) + seconds * 4))
			while [ "$(date +%s)" -lt $end ]; do
				mount -t tmpfs none /tmp/r$i || exit 1
				for f in 1 2 3 4 5 6 7 8; do echo $f >/tmp/r$i/$f; done
				cat /tmp/r*/1 /proc/[0-9]*/stat >/dev/null 2>&1
				ls -lR /tmp >/dev/null 2>&1
				umount -l /tmp/r$i || exit 1
			done
		) &
		i=$((i + 1))
		pids="$pids $!"
	done
	for p in $pids; do ok "mounting and reading, $p" wait "$p"; done
	;;
share)
	share "$3"
	;;
*)
	echo "no part $part"
	exit 2
	;;
esac
finish
