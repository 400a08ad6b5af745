// SPDX-License-Identifier: MIT
/* Motorola MC146818A data sheet; the CMOS map of the IBM AT as firmware still reads it.
 *
 * The clock is the host's wall clock plus an offset; setting the date changes the offset. Nothing
 * ticks: the time registers are computed when they are read, and the flags of register C follow
 * from what happened between the last look and now (rtc_catch_up). A timer runs only for an
 * interrupt that is enabled and not already pending, so a guest that never reads register
 * C costs nothing.
 *
 * The clock counts the host's wall time even while the VM is paused: it is a clock with a battery.
 */
#include "dev/rtc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	REG_SEC = 0,
	REG_SEC_ALARM = 1,
	REG_MIN = 2,
	REG_MIN_ALARM = 3,
	REG_HOUR = 4,
	REG_HOUR_ALARM = 5,
	REG_WDAY = 6,
	REG_MDAY = 7,
	REG_MONTH = 8,
	REG_YEAR = 9,
	REG_A = 10,
	REG_B = 11,
	REG_C = 12,
	REG_D = 13,
};

#define A_UIP  0x80
#define A_DV   0x70
#define A_RS   0x0f
#define B_SET  0x80
#define B_PIE  0x40
#define B_AIE  0x20
#define B_UIE  0x10
#define B_SQWE 0x08
#define B_DM   0x04 /* binary */
#define B_24H  0x02
#define C_IRQF 0x80
#define C_PF   0x40
#define C_AF   0x20
#define C_UF   0x10
#define D_VRT  0x80

#define HOUR_PM 0x80

/* UIP rises 244 us before the update, which takes 1984 us with the 32.768 kHz base. */
#define UIP_NS     (244000 + 1984000)
#define RTC_HZ     32768
#define DAY_S      86400
#define TIME_MAX_S 7258118399ll /* the end of 2199: nanoseconds since 1970 must fit 63 bits */

struct rtc {
	struct dev dev;
	struct dev_env env;
	struct rtc_config cfg;
	struct timer timer;
	u8 index; /* of 0x71 */
	bool nmi_off;
	u8 ram[RTC_NVRAM_SIZE]; /* time registers: valid while the clock is stopped */
	u8 reg_c;

	s64 offset;    /* rtc time = host wall clock + offset, in ns since 1970 */
	s64 stopped;   /* while the divider is held in reset: the time it stands at */
	s64 seen;      /* events up to here are in reg_c */
	u8 wday_shift; /* the guest's weekday need not be the calendar's */
};

/* ---- time ---- */

static u64 host_now(const struct rtc *r)
{
	struct timespec ts;

	if (r->cfg.clock)
		return r->cfg.clock(r->cfg.clock_arg);
	clock_gettime(CLOCK_REALTIME, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* DV 110 and 111 hold the divider chain in reset; the other values that are not 010 name other
 * crystals, with which a PC would run at a wrong speed: taken as 010. */
static bool divider_held(const struct rtc *r)
{
	return (r->ram[REG_A] & 0x60) == 0x60;
}

static s64 rtc_now(const struct rtc *r)
{
	return divider_held(r) ? r->stopped : (s64)host_now(r) + r->offset;
}

static s64 floor_div(s64 a, s64 b)
{
	return a / b - (a % b < 0);
}

static s64 floor_sec(s64 ns)
{
	return floor_div(ns, (s64)NSEC_PER_SEC);
}

/* ---- register formats ---- */

static u8 to_reg(const struct rtc *r, unsigned v)
{
	return (u8)(r->ram[REG_B] & B_DM ? v : (v / 10) << 4 | v % 10);
}

static unsigned from_reg(const struct rtc *r, u8 v)
{
	return r->ram[REG_B] & B_DM ? v : (v >> 4) * 10u + (v & 0x0f);
}

static u8 hour_to_reg(const struct rtc *r, unsigned hour)
{
	if (r->ram[REG_B] & B_24H)
		return to_reg(r, hour);
	return to_reg(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned hour_from_reg(const struct rtc *r, u8 v)
{
	if (r->ram[REG_B] & B_24H)
		return from_reg(r, v);
	return from_reg(r, v & 0x7f) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* The time `ns` into the time registers. */
static void regs_from_time(struct rtc *r, s64 ns)
{
	time_t t = floor_sec(ns);
	struct tm tm;

	if (!gmtime_r(&t, &tm))
		return; /* can't be: the offset is kept within the years that fit */
	r->ram[REG_SEC] = to_reg(r, (unsigned)tm.tm_sec);
	r->ram[REG_MIN] = to_reg(r, (unsigned)tm.tm_min);
	r->ram[REG_HOUR] = hour_to_reg(r, (unsigned)tm.tm_hour);
	r->ram[REG_WDAY] = to_reg(r, ((unsigned)tm.tm_wday + r->wday_shift) % 7 + 1);
	r->ram[REG_MDAY] = to_reg(r, (unsigned)tm.tm_mday);
	r->ram[REG_MONTH] = to_reg(r, (unsigned)tm.tm_mon + 1);
	r->ram[REG_YEAR] = to_reg(r, (unsigned)(tm.tm_year + 1900) % 100);
	r->ram[RTC_CENTURY] = to_reg(r, (unsigned)(tm.tm_year + 1900) / 100 % 100);
}

/* Seconds since 1970 that the time registers mean. Impossible dates are carried over (31 April
 * is 1 May), as the counters of a real chip would at their next carry. */
static s64 time_from_regs(struct rtc *r)
{
	struct tm tm = {
		.tm_sec = (int)from_reg(r, r->ram[REG_SEC]),
		.tm_min = (int)from_reg(r, r->ram[REG_MIN]),
		.tm_hour = (int)hour_from_reg(r, r->ram[REG_HOUR]),
		.tm_mday = (int)from_reg(r, r->ram[REG_MDAY]),
		.tm_mon = (int)from_reg(r, r->ram[REG_MONTH]) - 1,
		.tm_year = (int)(from_reg(r, r->ram[RTC_CENTURY]) * 100 +
	                         from_reg(r, r->ram[REG_YEAR])) -
	                   1900,
	};
	s64 t = timegm(&tm);

	t = MAX(t, (s64)0);
	t = MIN(t, (s64)TIME_MAX_S);
	/* timegm() has set the calendar's weekday */
	r->wday_shift = (u8)((from_reg(r, r->ram[REG_WDAY]) + 13u - (unsigned)tm.tm_wday) % 7);
	return t;
}

/* ---- events ---- */

static s64 period_ns(const struct rtc *r, s64 *ticks)
{
	unsigned rs = r->ram[REG_A] & A_RS;

	if (!rs || divider_held(r))
		return 0;
	if (rs < 3)
		rs += 7; /* 1 and 2 are 256 and 128 Hz */
	*ticks = 1ll << (rs - 1);
	return *ticks * (s64)NSEC_PER_SEC / RTC_HZ;
}

/* Number of periodic events up to `ns`; exact, without the rounding of a period in ns. */
static s64 period_count(s64 ns, s64 ticks)
{
	s64 sec = floor_sec(ns);
	s64 sub = ns - sec * (s64)NSEC_PER_SEC;

	/* every period divides a second: the longest, RS 15, is half of one */
	return sec * (RTC_HZ / ticks) + sub * (RTC_HZ / ticks) / (s64)NSEC_PER_SEC;
}

#define ALARM_ANY   (-1) /* "don't care" */
#define ALARM_NEVER (-2) /* no time looks like that */

/* What an alarm register matches: one of the values below `limit`, or the above. */
static int alarm_field(const struct rtc *r, u8 reg, unsigned limit)
{
	u8 a = r->ram[reg];

	if ((a & 0xc0) == 0xc0)
		return ALARM_ANY;
	for (unsigned v = 0; v < limit; v++)
		if (a == (reg == REG_HOUR_ALARM ? hour_to_reg(r, v) : to_reg(r, v)))
			return (int)v;
	return ALARM_NEVER;
}

static bool alarm_match(int field, unsigned v)
{
	return field == ALARM_ANY || (unsigned)field == v;
}

/* The first second >= t that the alarm registers match, or -1. Goes forward to an hour, then to a
 * minute, then to a second that match: at most 24 + 60 + 60 steps each time round. */
static s64 next_alarm(const struct rtc *r, s64 t)
{
	int hour = alarm_field(r, REG_HOUR_ALARM, 24);
	int min = alarm_field(r, REG_MIN_ALARM, 60);
	int sec = alarm_field(r, REG_SEC_ALARM, 60);
	s64 end = t + DAY_S;

	if (hour == ALARM_NEVER || min == ALARM_NEVER || sec == ALARM_NEVER)
		return -1;
	while (t < end) {
		unsigned s = (unsigned)(t - floor_div(t, DAY_S) * DAY_S);

		if (!alarm_match(hour, s / 3600))
			t += 3600 - s % 3600;
		else if (!alarm_match(min, s / 60 % 60))
			t += 60 - s % 60;
		else if (!alarm_match(sec, s % 60))
			t++;
		else
			return t;
	}
	return -1;
}

static bool updates_on(const struct rtc *r)
{
	return !(r->ram[REG_B] & B_SET) && !divider_held(r);
}

/* Put into reg_c what happened since the last look. */
static void rtc_catch_up(struct rtc *r)
{
	s64 now = rtc_now(r), ticks;

	if (now > r->seen) {
		if (period_ns(r, &ticks) &&
		    period_count(now, ticks) != period_count(r->seen, ticks))
			r->reg_c |= C_PF;
		if (updates_on(r) && floor_sec(now) != floor_sec(r->seen)) {
			s64 alarm = next_alarm(r, floor_sec(r->seen) + 1);

			r->reg_c |= C_UF;
			if (alarm >= 0 && alarm <= floor_sec(now))
				r->reg_c |= C_AF;
		}
	}
	r->seen = now; /* also when the host's clock was set back */
}

static u8 enabled_flags(const struct rtc *r)
{
	return r->reg_c & r->ram[REG_B] & (C_PF | C_AF | C_UF); /* the bits match PIE, AIE, UIE */
}

/* Interrupt line and timer follow the state. After rtc_catch_up(). */
static void rtc_update(struct rtc *r)
{
	s64 now = r->seen, next = INT64_MAX, ticks;
	u8 wanted = r->ram[REG_B] & ~r->reg_c & (B_PIE | B_AIE | B_UIE);

	if (enabled_flags(r))
		r->reg_c |= C_IRQF;
	else
		r->reg_c &= (u8)~C_IRQF;
	irq_set(r->env.irq, RTC_IRQ, r->reg_c & C_IRQF);

	if ((wanted & B_PIE) && period_ns(r, &ticks)) {
		s64 per_s = RTC_HZ / ticks, sec = floor_sec(now);
		s64 n = (now - sec * (s64)NSEC_PER_SEC) * per_s / (s64)NSEC_PER_SEC + 1;

		/* rounded up: not before the event */
		next = sec * (s64)NSEC_PER_SEC + (n * (s64)NSEC_PER_SEC + per_s - 1) / per_s;
	}
	if (updates_on(r)) {
		if (wanted & B_UIE)
			next = MIN(next, (floor_sec(now) + 1) * (s64)NSEC_PER_SEC);
		if (wanted & B_AIE) {
			s64 alarm = next_alarm(r, floor_sec(now) + 1);

			if (alarm >= 0)
				next = MIN(next, alarm * (s64)NSEC_PER_SEC);
		}
	}
	if (next == INT64_MAX)
		timer_cancel(&r->timer);
	else
		timer_arm(&r->timer, loop_now(r->env.loop) + (u64)(next - now));
}

static void on_timer(void *arg)
{
	struct rtc *r = arg;

	rtc_catch_up(r);
	rtc_update(r);
}

/* ---- registers ---- */

static bool is_time_reg(u8 i)
{
	return i == RTC_CENTURY ||
	       (i <= REG_YEAR && i != REG_SEC_ALARM && i != REG_MIN_ALARM && i != REG_HOUR_ALARM);
}

/* While SET is on, the registers hold what the guest wrote; else they follow the clock. */
static void regs_refresh(struct rtc *r)
{
	if (!(r->ram[REG_B] & B_SET))
		regs_from_time(r, rtc_now(r));
}

/* The clock goes on from the time registers; the fraction of the second stays. */
static void clock_from_regs(struct rtc *r)
{
	s64 now = rtc_now(r);
	s64 sub = now - floor_sec(now) * (s64)NSEC_PER_SEC;
	s64 t = time_from_regs(r) * (s64)NSEC_PER_SEC + sub;

	if (divider_held(r))
		r->stopped = t;
	else
		r->offset += t - now;
	r->seen = rtc_now(r);
}

static void reg_a_write(struct rtc *r, u8 val)
{
	bool was = divider_held(r), is = (val & 0x60) == 0x60;
	s64 now = rtc_now(r);

	if (!was && is) {
		r->stopped = now;
	} else if (was && !is) {
		/* the first update comes half a second after the divider starts */
		s64 t = floor_sec(now) * (s64)NSEC_PER_SEC + (s64)NSEC_PER_SEC / 2;

		r->offset = t - (s64)host_now(r);
	}
	r->ram[REG_A] = val & (u8)~A_UIP;
	r->seen = rtc_now(r);
}

static void reg_b_write(struct rtc *r, u8 val)
{
	u8 old = r->ram[REG_B];

	if ((val & B_SET) && !(old & B_SET))
		regs_refresh(r); /* the last update before they stand still */
	if (val & B_SET)
		val &= (u8)~B_UIE; /* data sheet: SET clears UIE */
	r->ram[REG_B] = val;
	if (!(val & B_SET) && (old & B_SET))
		clock_from_regs(r);
}

static u8 reg_c_read(struct rtc *r)
{
	u8 v;

	rtc_catch_up(r);
	if (enabled_flags(r))
		r->reg_c |= C_IRQF;
	v = r->reg_c;
	r->reg_c = 0;
	rtc_update(r);
	return v;
}

static u8 reg_a_read(struct rtc *r)
{
	s64 now = rtc_now(r);
	s64 left = (floor_sec(now) + 1) * (s64)NSEC_PER_SEC - now;

	return r->ram[REG_A] | (updates_on(r) && left <= UIP_NS ? A_UIP : 0);
}

static u64 rtc_read(void *dev, u64 off, unsigned size)
{
	struct rtc *r = dev;

	if (!off)
		return 0xff; /* the index register is write-only */
	if (is_time_reg(r->index))
		regs_refresh(r);
	switch (r->index) {
	case REG_A:
		return reg_a_read(r);
	case REG_C:
		return reg_c_read(r);
	case REG_D:
		return D_VRT;
	default:
		return r->ram[r->index];
	}
}

static void rtc_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct rtc *r = dev;
	u8 v = (u8)val;

	if (!off) {
		r->index = v & 0x7f;
		r->nmi_off = v & 0x80;
		return;
	}
	if (r->index > REG_D && r->index != RTC_CENTURY) {
		r->ram[r->index] = v;
		return;
	}
	rtc_catch_up(r); /* with the settings that were in force */
	if (is_time_reg(r->index)) {
		regs_refresh(r);
		r->ram[r->index] = v;
		if (!(r->ram[REG_B] & B_SET))
			clock_from_regs(r);
	} else if (r->index == REG_A) {
		reg_a_write(r, v);
	} else if (r->index == REG_B) {
		reg_b_write(r, v);
	} else if (r->index != REG_C && r->index != REG_D) {
		r->ram[r->index] = v; /* alarm */
	}
	rtc_update(r);
}

u8 rtc_nvram_get(const struct rtc *r, u8 index)
{
	return index < RTC_NVRAM_SIZE ? r->ram[index] : 0xff;
}

void rtc_nvram_set(struct rtc *r, u8 index, u8 val)
{
	if (index < RTC_NVRAM_FIRST || index >= RTC_NVRAM_SIZE || index == RTC_CENTURY)
		bug("CMOS byte %#x is not the machine's to set", index);
	r->ram[index] = val;
}

/* ---- the device ---- */

/* The RESET pin: interrupts off, flags cleared. Time and memory have a battery. */
static void rtc_reset(struct dev *d)
{
	struct rtc *r = container_of(d, struct rtc, dev);

	rtc_catch_up(r);
	r->ram[REG_B] &= (u8) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
	r->reg_c = 0;
	r->index = 0;
	r->nmi_off = false;
	rtc_update(r);
}

static void rtc_destroy(struct dev *d)
{
	struct rtc *r = container_of(d, struct rtc, dev);

	timer_cancel(&r->timer);
	bus_detach(r->env.bus, BUS_PIO, RTC_PORT);
	free(r);
}

static void rtc_dump(struct dev *d, FILE *out)
{
	struct rtc *r = container_of(d, struct rtc, dev);
	time_t t = floor_sec(rtc_now(r));
	struct tm tm;
	char text[32] = "?";

	if (gmtime_r(&t, &tm))
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
	fprintf(out,
	        "rtc: %s%s, A %02x B %02x C %02x, alarm %02x:%02x:%02x, index %02x%s, shutdown "
	        "%02x\n",
	        text, updates_on(r) ? "" : " (stopped)", reg_a_read(r), r->ram[REG_B], r->reg_c,
	        r->ram[REG_HOUR_ALARM], r->ram[REG_MIN_ALARM], r->ram[REG_SEC_ALARM], r->index,
	        r->nmi_off ? ", NMI masked" : "", r->ram[RTC_SHUTDOWN]);
}

static const struct dev_ops rtc_dev_ops = {
	.reset = rtc_reset,
	.destroy = rtc_destroy,
	.dump = rtc_dump,
};

static const struct region_ops rtc_region_ops = {rtc_read, rtc_write};

static void put16(struct rtc *r, u8 index, u64 v, u64 max)
{
	v = MIN(v, max);
	r->ram[index] = (u8)v;
	r->ram[index + 1] = (u8)(v >> 8);
}

/* What a BIOS's power-on test would have left. */
static void nvram_init(struct rtc *r, const struct pmap *p, unsigned nr_vcpus)
{
	u64 low = 0, high = 0, ext, sum = 0;

	for (unsigned i = 0; p && i < p->nr_slots; i++) {
		u64 end = p->slot[i].base + p->slot[i].size;

		if (p->slot[i].base >= PCI_HOLE_END)
			high += p->slot[i].size;
		else
			low = MAX(low, end);
	}
	ext = low > MiB ? low - MiB : 0;
	r->ram[0x14] = 0x02; /* equipment: a coprocessor, no floppy, no display */
	put16(r, 0x15, 640, 640);
	put16(r, 0x17, ext / KiB, 0xffff);
	put16(r, 0x30, ext / KiB, 0xffff);
	put16(r, 0x34, low > 16 * MiB ? (low - 16 * MiB) / (64 * KiB) : 0, 0xffff);
	high = MIN(high / (64 * KiB), (u64)0xffffff);
	put16(r, 0x5b, high & 0xffff, 0xffff);
	r->ram[0x5d] = (u8)(high >> 16);
	r->ram[0x5f] = (u8)(nr_vcpus ? nr_vcpus - 1 : 0);
	for (u8 i = 0x10; i <= 0x2d; i++)
		sum += r->ram[i];
	r->ram[0x2e] = (u8)(sum >> 8);
	r->ram[0x2f] = (u8)sum;
}

int rtc_create(struct rtc **out, const struct dev_env *env, const struct rtc_config *cfg)
{
	struct rtc *r = calloc(1, sizeof(*r));
	struct region region = {
		.name = "rtc", .base = RTC_PORT, .len = 2, .max_size = 1, .ops = &rtc_region_ops};
	int err;

	if (!r)
		return -ENOMEM;
	r->env = *env;
	r->cfg = *cfg;
	r->dev.name = "rtc";
	r->dev.ops = &rtc_dev_ops;
	timer_init(&r->timer, env->loop, on_timer, r);
	r->ram[REG_A] = 0x26; /* 32.768 kHz, 1024 Hz, as every BIOS leaves it */
	r->ram[REG_B] = B_24H;
	nvram_init(r, env->pmap, cfg->nr_vcpus);
	if (cfg->localtime) {
		time_t t = (time_t)(host_now(r) / NSEC_PER_SEC);
		struct tm tm;

		/* The offset as of now: a change to summer time later is the guest's business. */
		if (localtime_r(&t, &tm))
			r->offset = tm.tm_gmtoff * (s64)NSEC_PER_SEC;
	}
	r->seen = rtc_now(r);
	region.dev = r;
	err = bus_attach(env->bus, BUS_PIO, &region);
	if (err) {
		free(r);
		return err;
	}
	dev_register(env, &r->dev);
	*out = r;
	return 0;
}
