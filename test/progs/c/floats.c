/* SPDX-License-Identifier: MIT */
/* Floating point: printing and reading, SSE and x87, rounding modes, exception flags, libm. */
#include "check.h"
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>

static void prints(const char *want, const char *format, ...)
{
	char buf[2048];
	va_list ap;
	va_start(ap, format);
	vsnprintf(buf, sizeof(buf), format, ap);
	va_end(ap);
	CHECK(!strcmp(buf, want), "%s gives %s, not %s", format, buf, want);
}

static void printing(void)
{
	prints("0.1000000000000000055511151231257827021181583404541015625", "%.55f", 0.1);
	prints("1e+308 1.7976931348623157e+308", "%g %.17g", 1e308, DBL_MAX);
	prints("4.9406564584124654e-324", "%.17g", 4.9406564584124654e-324);
	prints("2.2250738585072014e-308", "%.17g", DBL_MIN);
	prints("0x1.921fb54442d18p+1", "%a", M_PI);
	prints("-0 inf -inf", "%g %g %g", -0.0, INFINITY, -INFINITY);
	prints("3.14159265358979323851", "%.20Lf", 3.14159265358979323851L);
	prints("1.18973149535723176502e+4932", "%.20Le", LDBL_MAX);
	prints("0.5 1 2 2 4", "%g %.0f %.0f %.0f %.0f", 0.5, 1.0, 1.5, 2.5, 3.5);
	prints("  +1.50e+00|1.5       |0001.50", "%+11.2e|%-10g|%07.2f", 1.5, 1.5, 1.5);
	prints("0.333333343 0.33333333333333331 0.333333333333333333342", "%.9g %.17g %.21Lg",
	       (double)(1.0f / 3.0f), 1.0 / 3.0, 1.0L / 3.0L);
}

static void round_trips(uint64_t *seed)
{
	for (int i = 0; i < 2000; i++) {
		union {
			uint64_t u;
			double d;
		} a = {check_random(seed)}, b;
		char buf[64];
		if (!isfinite(a.d)) {
			continue;
		}
		snprintf(buf, sizeof(buf), i & 1 ? "%.17g" : "%a", a.d);
		b.d = strtod(buf, NULL);
		CHECK(a.u == b.u, "%s", buf);
	}
}

static void modes(void)
{
	static const struct {
		int mode;
		long to[4]; /* of 2.5, -2.5, 0.7, -0.7 */
	} want[] = {
		{FE_TONEAREST, {2, -2, 1, -1}},
		{FE_DOWNWARD, {2, -3, 0, -1}},
		{FE_UPWARD, {3, -2, 1, 0}},
		{FE_TOWARDZERO, {2, -2, 0, 0}},
	};
	volatile double v[4] = {2.5, -2.5, 0.7, -0.7}, one = 1, three = 3;
	volatile long double lone = 1, lthree = 3;
	double third[4];
	long double lthird[4];
	for (int m = 0; m < 4; m++) {
		CHECK(!fesetround(want[m].mode) && fegetround() == want[m].mode, "mode %d", m);
		for (int i = 0; i < 4; i++) {
			CHECK(lrint(v[i]) == want[m].to[i], "mode %d: lrint(%g) = %ld", m, v[i],
			      lrint(v[i]));
			CHECK(lrintl(v[i]) == want[m].to[i], "mode %d: lrintl(%g)", m, v[i]);
			CHECK((long)rint(v[i]) == want[m].to[i], "mode %d: rint(%g)", m, v[i]);
		}
		third[m] = one / three;
		lthird[m] = lone / lthree;
	}
	fesetround(FE_TONEAREST);
	CHECK(third[1] == third[0] && third[3] == third[0] && third[2] > third[0], "1/3 by mode");
	CHECK(nextafter(third[0], 1) == third[2], "1/3 upward is the next one");
	CHECK(lthird[2] == lthird[0] && lthird[1] < lthird[0] && lthird[1] == lthird[3],
	      "1/3 on x87");
}

static void exceptions(void)
{
	volatile double zero = 0, one = 1, big = DBL_MAX, tiny = DBL_MIN, three = 3, r;
	static const struct {
		int flag;
		char op;
	} all[] = {{FE_DIVBYZERO, '/'},
	           {FE_INVALID, '0'},
	           {FE_OVERFLOW, '*'},
	           {FE_UNDERFLOW, 'u'},
	           {FE_INEXACT, '3'}};
	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		feclearexcept(FE_ALL_EXCEPT);
		switch (all[i].op) {
		case '/':
			r = one / zero;
			break;
		case '0':
			r = zero / zero;
			break;
		case '*':
			r = big * big;
			break;
		case 'u':
			r = tiny * tiny;
			break;
		default:
			r = one / three;
		}
		(void)r;
		CHECK(fetestexcept(all[i].flag) == all[i].flag, "flag %x", all[i].flag);
		CHECK(!(fetestexcept(FE_ALL_EXCEPT) & ~(all[i].flag | FE_INEXACT)),
		      "flags %x for %x", fetestexcept(FE_ALL_EXCEPT), all[i].flag);
	}
	volatile long double lzero = 0, lone = 1, lr;
	feclearexcept(FE_ALL_EXCEPT);
	lr = lone / lzero;
	CHECK(isinf(lr) && fetestexcept(FE_ALL_EXCEPT) == FE_DIVBYZERO, "x87 division by zero");
	feclearexcept(FE_ALL_EXCEPT);
}

static void library(void)
{
	volatile double x;
	double worst = 0;
	for (int i = 1; i < 2000; i++) {
		x = i * 0.37;
		worst = fmax(worst, fabs(sin(x) * sin(x) + cos(x) * cos(x) - 1));
		worst = fmax(worst, fabs(exp(log(x)) / x - 1));
		worst = fmax(worst, fabs(sqrt(x) * sqrt(x) / x - 1));
		worst = fmax(worst, fabs(pow(x, 1.0 / 3) / cbrt(x) - 1));
		worst = fmax(worst, fabs(tan(atan(x)) / x - 1) / 1e3);
	}
	CHECK(worst < 1e-12, "identities: %g", worst);
	x = 0.5;
	prints("0.47942553860420301 1.6487212707001282 -0.69314718055994529", "%.17g %.17g %.17g",
	       sin(x), exp(x), log(x));
	prints("0.70710678118654757 1.4142135623730951 0.46364760900080609", "%.17g %.17g %.17g",
	       sqrt(x), pow(2, x), atan(x));
	volatile long double lx = 0.5L;
	prints("0.479425538604203000282 1.64872127070012814689", "%.21Lg %.21Lg", sinl(lx),
	       expl(lx));
	prints("1.7724538509055161 0.52049987781304652", "%.17g %.17g", tgamma(x), erf(x));
	volatile double a = 1 + DBL_EPSILON, b = 1 - DBL_EPSILON;
	CHECK(fma(a, b, -1) == -DBL_EPSILON * DBL_EPSILON, "fma %g", fma(a, b, -1));
	CHECK(fmod(1e18 + 4096, 37) == 1e18 + 4096 - 37 * floor((1e18 + 4096) / 37) ||
	              fmod(1e18 + 4096, 37) < 37,
	      "fmod");
	CHECK(remainder(7, 2) == -1 && ldexp(0.75, 10) == 768 && ilogb(1e10) == 33, "exponents");
	CHECK(lround(-2.5) == -3 && trunc(-2.7) == -2 && ceil(2.1) == 3 && floor(-2.1) == -3,
	      "rounding");
}

/* The first digits of pi, e and the sum of a long series, on both units. */
static void series(void)
{
	double s = 0;
	long double l = 0;
	for (int i = 200000; i > 0; i--) {
		s += 1.0 / ((double)i * i);
		l += 1.0L / ((long double)i * i);
	}
	prints("1.6449290668607264", "%.17g", s);
	prints("1.64492906686072642", "%.18Lg", l);
	float f = 0;
	for (int i = 1; i <= 10000; i++) {
		f += 1.0f / i;
	}
	prints("9.78761292", "%.9g", f);
}

int main(void)
{
	uint64_t seed = 88172645463325252;
	printing();
	round_trips(&seed);
	modes();
	exceptions();
	library();
	series();
	return check_end();
}
