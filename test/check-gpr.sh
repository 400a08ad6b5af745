#!/bin/sh
# SPDX-License-Identifier: MIT
# Code that runs while the guest's vector state may be in the host's registers (doc/vector-state.md)
# must not touch those registers. Checked in the objects themselves:
#
#  1. none of them contains a vector or x87 instruction, but where it is the purpose;
#  2. none of them calls out to code that may, but for the calls listed here with the reason;
#  3. functions outside that are called with live state contain no such instruction either.
#
# And the interpreter's handlers end in a jump to the next one: with a call, guest code of any length
# would overflow the stack.
#
# usage: test/check-gpr.sh BUILD-FOLDER
set -eu

build=${1:?usage: test/check-gpr.sh BUILD-FOLDER}
rest=libringer.a
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0
failed=0

# SYMBOL  OBJECTS(comma separated, * any)  REASON. "clean": checked by 3.
cat > "$tmp/allowed" <<'END'
__divti3             tsc            integer arithmetic of libgcc
__udivti3            tsc            integer arithmetic of libgcc
_setjmp              *              saves general registers only
__sigsetjmp          *              saves general registers only
longjmp              *              restores general registers only
__longjmp_chk        *              restores general registers only
pthread_mutex_lock   mmu,bt-link,bt-page,bt-run,bt-safe general registers only
pthread_mutex_unlock mmu,bt-link,bt-page,bt-run,bt-safe general registers only
clock_gettime        *              vDSO: the kernel's code, no vector registers
sched_yield          ops_sys,bt-helpers a system call
nanosleep            tsc            before the VM runs
log_msg              tsc,run,bt-run before the VM runs
mmap64               run            creation
large_map            x86            creation
calloc               run            creation
free                 run            destruction
munmap               run,x86        destruction
madvise              x86            creation
mmap                 run            creation
strerror             run,bt-run     creation
native_create        run            creation
native_destroy       run            destruction
native_thread_init   run            creation
native_thread_exit   run            before and after the guest runs
insn_sib_without_base decode         after x86_fpu_put()
native_thread_exit   run            destruction
native_generation    decode         clean
loop_now             x86            creation
memset               x86            reset and creation, after x86_fpu_put()
bug_at               *              the end
bus_read             mmu,pio        after x86_fpu_put()
bus_write            mmu,pio        after x86_fpu_put()
pmap_read            kvmpv,mmu      after x86_fpu_put(); mmu: debugger's access, vCPU parked
pmap_write           kvmpv,mmu      after x86_fpu_put(); mmu: debugger's access, vCPU parked
pmap_ptr             cr,steal       clean
pmap_code_mark       decode,run,bt-run clean
pmap_code_written    mmu,steal      steal: after x86_fpu_put(), or halted; mmu: clean
vcpu_unhalt          kvmpv          after x86_fpu_put()
vcpu_kick            steal          halted: outside of the engine
vm_kill              run            after x86_fpu_put()
trace_msg            *              after x86_fpu_put()
snprintf             event,run      after x86_fpu_put(), or at creation
memcpy               decode         after x86_fpu_put()
memset               decode         after x86_fpu_put()
native_get           decode         after x86_fpu_put()
ZydisDecoder*        decode,dump    after x86_fpu_put()
ZydisRegister*       decode,pick_plain,pick_ending after x86_fpu_put()
ZydisFormatter*      decode,dump    after x86_fpu_put()
ZydisDisassemble*    run            after x86_fpu_put()
fprintf              dump           after x86_fpu_put()
fflush               dump           after x86_fpu_put()
fputc                dump           after x86_fpu_put()
fputs                dump           after x86_fpu_put()
fwrite               dump           after x86_fpu_put()
memset               bt-page        after x86_fpu_put(): the hook's callers, bt_flush_code()
mprotect             bt-page        a system call
pmap_code_moved      bt-page        clean
pmap_enlarge         mmu_tlb        clean
pthread_cond_wait    bt-safe        after x86_fpu_put()
pthread_cond_broadcast bt-safe      after x86_fpu_put()
bt_flush_code        bt-run,bt-safe after x86_fpu_put()
bt_translate         bt-run         after x86_fpu_put()
bt_straddles         bt-run         after x86_fpu_put()
bt_thread_init       bt-run         before the guest runs
END

# Vector or x87 instructions on purpose: the state itself is moved.
purpose="cpu_x86_fpu engine_interp_native engine_interp_native_special engine_bt_run"
tab=$(printf '\t')
vector="%[xyz]mm[0-9]|%mm[0-7]|%k[0-7]|%st|:$tab(f[a-z0-9]+|v?(ld|st)mxcsr|emms|vzero[a-z]+)( |\$)"

if [ ! -f "$build/libringer-gpr.a" ]; then
	echo "check-gpr: no libringer-gpr.a in $build" >&2
	exit 2
fi
cd "$build"
# shellcheck disable=SC2046 # names without spaces
set -- $(ar t libringer-gpr.a)
if nm "$@" | grep -q '__asan_\|__tsan_\|__sanitizer_'; then
	echo "skip: built with a sanitizer, whose calls are everywhere; x86_fpu_put() is eager there"
	exit 77
fi

ok() {
	passed=$((passed + 1))
}
bad() {
	failed=$((failed + 1))
	echo "$*"
}

# Is $1 an allowed symbol for object $2?
allowed() {
	while read -r pattern objs _; do
		# shellcheck disable=SC2254 # a pattern
		case $1 in $pattern) ;; *) continue ;; esac
		[ "$objs" = '*' ] && return 0
		case ,$objs, in *,"$2",*) return 0 ;; esac
	done < "$tmp/allowed"
	return 1
}

nm --defined-only "$@" 2>/dev/null | awk 'NF == 3 { print $3 }' | sort -u > "$tmp/defined"
for o in "$@"; do
	name=$(basename "$o" .c.o)
	name=${name#src_}
	case " $purpose " in
	*" $name "*) ok ;;
	*)
		objdump -d --no-show-raw-insn "$o" | grep -E "$vector" > "$tmp/found" || true
		if [ -s "$tmp/found" ]; then
			bad "$name: vector instructions: $(head -3 "$tmp/found" | tr -s '\t\n ' ' ')"
		else
			ok
		fi
		;;
	esac
	short=${name#cpu_x86_}
	short=${short#engine_interp_}
	case $short in engine_bt_*) short=bt-${short#engine_bt_} ;; esac
	short=${short#engine_bt_}
	for sym in $(nm -u "$o" | awk '{ print $2 }' | sort -u | comm -23 - "$tmp/defined"); do
		case $sym in _GLOBAL_OFFSET_TABLE_ | __stack_chk_fail) continue ;; esac
		if allowed "$sym" "$short"; then
			ok
		else
			bad "$name calls $sym: with the guest's vector state in the registers? If not, list it in $0"
		fi
	done
done

objdump -d --no-show-raw-insn "$@" |
	awk '/^[0-9a-f]+ <op_/ { f = $2 } NF == 0 { f = "" } f && /call +\*/ { print f }' |
	sort -u > "$tmp/called"
objdump -d --no-show-raw-insn "$@" | grep -c '^[0-9a-f]* <op_' > "$tmp/handlers"
if [ -s "$tmp/called" ] || [ "$(cat "$tmp/handlers")" -lt 100 ]; then
	bad "of $(cat "$tmp/handlers") handlers these call the next one: $(tr '\n' ' ' < "$tmp/called")"
else
	ok
fi

awk '$3 == "clean" { print $1 }' "$tmp/allowed" > "$tmp/clean"
while read -r sym; do
	objdump -d --no-show-raw-insn "$rest" |
		awk -v f="<$sym>:" '$2 == f { on = 1; print "found" } on && NF == 0 { on = 0 } on' > "$tmp/fn"
	if ! grep -q found "$tmp/fn"; then
		bad "$sym: not found in $rest"
	elif grep -E "$vector" "$tmp/fn"; then
		bad "$sym: uses vector registers, but is called with the guest's state in them"
	else
		ok
	fi
done < "$tmp/clean"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
