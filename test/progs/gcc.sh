# SPDX-License-Identifier: MIT
# gcc compiles and runs the programs of /progs/c at several levels of optimization; binutils look at
# what it made. (busybox's shell prefers its own ar to the one in PATH.) The argument is the level: 0,
# 2, 3; or tools; or one, which is a few programs at one level.
. /progs/check.sh
src=/progs/c
flags="-Wall -frounding-math -ffp-contract=off -mcx16 -mavx2 -mbmi -mbmi2 -mfma -mf16c -mlzcnt \
-mmovbe -mpopcnt -Wno-array-bounds -Wno-infinite-recursion"

# program COMMAND: its own closing line is counted.
program()
{
	timeout 1000 "$@" >out 2>&1
	status=$?
	last=$(tail -n 1 out)
	good=$(echo "$last" | sed -n 's/^\([0-9]*\) passed, .*/\1/p')
	passed=$((passed + ${good:-0}))
	case "$status $last" in
	"0 "*" passed, 0 failed") ;;
	*)
		failed=$((failed + 1))
		echo "failed: $* at -O$level: status $status"
		tail -n 20 out
		;;
	esac
}

tools()
{
	ok 'gcc -c' gcc -g -O2 $flags -c $src/ints.c -o a.o
	ok 'the same again' gcc -g -O2 $flags -c $src/ints.c -o b.o
	ok 'the same bytes' cmp a.o b.o
	ok 'gcc -S' gcc -O2 $flags -S $src/ints.c -o a.s
	is 'as' 'main' "$(as a.s -o c.o && nm c.o | awk '$3 ~ /^main$/ { print $3 }' | xargs echo)"
	ok 'ld -r' ld -r -o r.o a.o
	ok 'linked' gcc r.o -o linked
	level=r program ./linked
	ok 'strip' strip linked
	is 'stripped' 0 "$(nm linked 2>/dev/null | wc -l)"
	program ./linked
	is 'objdump -d' yes "$(objdump -d a.o | grep -q 'imul\|mul ' && echo yes)"
	is 'objdump and as agree' "$(objcopy -O binary -j .text c.o t1 && md5sum <t1)" \
		"$(objdump -d a.o >/dev/null && gcc -O2 $flags -c $src/ints.c -o d.o && objcopy -O binary -j .text d.o t2 && md5sum <t2)"
	is 'readelf' 'ELF64' "$(readelf -h linked | awk '/Class/ { print $2 }')"
	is 'size' yes "$(size a.o | awk 'NR == 2 { print ($1 > 1000 && $1 < 100000) ? "yes" : $1 }')"
	for i in 1 2 3; do
		echo "int f$i(int x) { return x * $i; }" >f$i.c
		gcc -O2 -c f$i.c
	done
	ok 'ar' /usr/bin/ar rcs libf.a f1.o f2.o f3.o
	is 'ar t' 'f1.o f2.o f3.o' "$(/usr/bin/ar t libf.a | xargs echo)"
	cat >m.c <<'END'
#include <stdio.h>
int f1(int), f2(int), f3(int);
int main(void) { printf("%d\n", f1(1) + f2(10) + f3(100)); return 0; }
END
	is 'a static library' 321 "$(gcc m.c -L. -lf -o m && ./m)"
	is 'a shared library' 321 "$(gcc -shared -fPIC f1.c f2.c f3.c -o libg.so && gcc m.c -L. -lg -o m && LD_LIBRARY_PATH=. ./m)"
	is 'a static program' 321 "$(gcc -static m.c -L. -lf -o m && ./m)"
	is 'addr2line' yes "$(gcc -g m.c -L. -lf -o m && addr2line -e m "$(nm m | awk '$3 == "main" { print $1 }')" | grep -q 'm.c:3' && echo yes)"
	is 'gcc -pg' 321 "$(gcc -pg m.c -L. -lf -o m && ./m && [ -s gmon.out ] || echo none)"
	is 'preprocessor' 42 "$(echo 'A(6)' | gcc -E -P -D'A(x)=x*7' - | sed 's/6\*7/42/')"
	is 'a wrong program' 1 "$(echo 'int main( {' | gcc -x c - -o w 2>/dev/null; echo $?)"
	is 'warnings' yes "$(echo 'int f(void) { int x; return x; }' | gcc -O2 -Wall -x c -c - -o w 2>&1 | grep -q uninitialized && echo yes)"
	# A long file: thousands of functions, their sum known.
	awk 'BEGIN { for (i = 0; i < 1500; i++) printf "static unsigned f%d(unsigned x) { unsigned s = 0; for (unsigned i = 0; i < x %% 7 + 2; i++) s += (x ^ %d) * i; switch (s %% 5) { case 0: return s + %d; case 1: return s * 3; default: return s; } }\n", i, i, i;
		print "#include <stdio.h>\nint main(void) { unsigned s = 0;"; for (i = 0; i < 1500; i++) printf "s += f%d(s + %d);\n", i, i; print "printf(\"%u\\n\", s); return 0; }" }' >long.c
	ok 'a long file, -O0' gcc -O0 long.c -o long0
	ok 'a long file, -O1' gcc -O1 long.c -o long1
	is 'long file' 1677099008 "$(./long0)"
	is 'long file, -O1' 1677099008 "$(./long1)"
	is 'openmp' '500000500000' "$(printf '#include <stdio.h>\nint main(void) { long s = 0;\n#pragma omp parallel for reduction(+:s)\nfor (long i = 1; i <= 1000000; i++) s += i;\nprintf("%%ld\\n", s); return 0; }\n' | gcc -fopenmp -O2 -x c - -o omp && ./omp)"
	is 'quadmath' '1.4142135623730950488016887242097' "$(printf '#include <quadmath.h>\n#include <stdio.h>\nint main(void) { char b[64]; volatile __float128 x = 2; quadmath_snprintf(b, sizeof(b), "%%.33Qg", sqrtq(x)); puts(b); return 0; }\n' | gcc -O2 -x c - -o q -lquadmath && ./q)"
}

mkdir work && cd work || exit 1
case $1 in
tools)
	tools
	;;
*)
	level=$1
	programs='ints floats vectors strings jumps selfmod threads procs'
	[ "$level" != one ] || { level=1; programs='ints floats jumps selfmod threads'; }
	for name in $programs; do
		echo "$name at -O$level"
		ok "gcc -O$level $name.c" gcc -O$level $flags $src/$name.c -o $name -lm -lpthread
		program ./$name
	done
	if [ "$level" = 2 ]; then
		ok 'gcc -O2 -static' gcc -O2 $flags -static $src/floats.c -o floats -lm
		program ./floats
		ok 'g++ -O2 unwind.cc' g++ -O2 -Wall $src/unwind.cc -o unwind
		program ./unwind
	fi
	;;
esac
finish
