# SPDX-License-Identifier: MIT
# stress-ng with --verify: each stressor compares what it got with what it must get. The first
# argument: cpu, vm, fork, smp, others; the second: seconds for each stressor that counts time.
. /progs/check.sh
seconds=$2
n=$(nproc)
cd /tmp || exit 1

# run STRESSOR OPTION...: a status of 0, and not one line that says "fail".
run()
{
	name=$1
	shift
	stress-ng --verify --temp-path /tmp --oomable --no-rand-seed "$@" >out 2>&1
	status=$?
	if [ $status = 0 ] && ! grep -qE 'fail:|failed: [1-9]|unsuccessful|terminated by|killed by' out; then
		passed=$((passed + 1))
		echo "$name: ok"
	elif [ $status = 4 ] || grep -q 'not implemented' out; then
		# Status 4: this kernel or this machine lacks what the stressor is about.
		echo "$name: not here: $(grep -E 'skipp|not implemented' out | head -n 1)"
	else
		failed=$((failed + 1))
		echo "failed: $name: status $status"
		tail -n 15 out
	fi
}

case $1 in
cpu)
	for method in $(stress-ng --cpu-method list 2>&1 | sed 's/.*must be one of://'); do
		run "cpu, $method" --cpu 1 --cpu-method "$method" --cpu-ops 5 --timeout 300
	done
	run 'cpu, all methods' --cpu 0 --cpu-method all --timeout "$seconds"
	;;
vm)
	for method in $(stress-ng --vm-method list 2>&1 | sed 's/.*must be one of://'); do
		run "vm, $method" --vm 1 --vm-bytes 2M --vm-method "$method" --vm-ops 200 --timeout "$seconds"
	done
	run 'vm, all methods' --vm 0 --vm-bytes 48M --vm-method all --timeout "$seconds"
	run vm-rw --vm-rw 0 --vm-rw-bytes 4M --timeout "$seconds"
	run vm-splice --vm-splice 0 --timeout "$seconds"
	run vm-addr --vm-addr 1 --timeout "$seconds"
	run vm-segv --vm-segv 1 --timeout "$seconds"
	;;
fork)
	run fork --fork 0 --timeout "$seconds"
	run 'fork, vm' --fork 2 --fork-vm --timeout "$seconds"
	run vfork --vfork 0 --timeout "$seconds"
	run clone --clone 1 --clone-max 64 --timeout "$seconds"
	run exec --exec 1 --timeout "$seconds"
	run pthread --pthread 0 --pthread-max 64 --timeout "$seconds"
	run daemon --daemon 1 --timeout "$seconds"
	run zombie --zombie 1 --zombie-max 64 --timeout "$seconds"
	run wait --wait 1 --timeout "$seconds"
	run kill --kill 1 --timeout "$seconds"
	;;
smp)
	# What processors do to each other: one of each stressor on every processor.
	for name in cpu vm fork futex mutex sem sem-sysv pipe switch mmap fault membarrier signal sigq timer timerfd \
		poll eventfd pthread clone clock itimer nanosleep yield hrtimers sigsegv rcu dentry get filename \
		atomic affinity schedpolicy msg mq vforkmany tlb-shootdown mmapfork shm sleep tsc; do
		case " $(stress-ng --stressors) " in
		*" $name "*) run "$name" --"$name" 0 --timeout "$seconds" ;;
		esac
	done
	;;
others)
	for name in futex mmap mmapfork mmapmany mremap mprotect msync madvise shm sem sem-sysv mutex \
		switch context yield membarrier rseq signal sigsegv sigfpe sigq sigtrap sigabrt sigio \
		itimer timer timerfd nanosleep clock hrtimers poll epoll eventfd pipe pipeherd \
		sock sockpair udp fifo dentry dir file-ioctl hdd link symlink \
		memcpy memfd memrate memthrash stream matrix matrix-3d vecmath vecshuf vecwide vecfp fp \
		str wcs tree radixsort qsort mergesort heapsort shellsort bsearch hsearch lsearch tsearch \
		skiplist list zlib crypt hash jpeg judy longjmp goto funccall funcret branch icache \
		cache tlb-shootdown atomic lockbus lockf rdrand tsc cpu-online prctl ptrace revio \
		regs nop remap fault userfaultfd x86syscall x86cpuid trig stack bad-altstack stackmmap \
		sigpending getrandom urandom get set sysinfo times procfs access mincore mlock \
		opcode far-branch fpunch jitter jump smi; do
		case $name in
		# Turn processors off, or are about the host's hardware.
		cpu-online | smi | jitter | jump | fpunch) continue ;;
		esac
		case " $(stress-ng --stressors) " in
		*" $name "*) run "$name" --"$name" 1 --timeout "$seconds" ;;
		esac
	done
	;;
*)
	echo "no part $1"
	exit 2
	;;
esac
finish
