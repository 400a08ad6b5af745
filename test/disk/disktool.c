// SPDX-License-Identifier: MIT
/* What the disk test (test_disk.py) does to an image, through the block layer of a running VM.
 *
 *   exercise OPTIONS MODEL SEED OPS	random requests, many in flight, against a file with what
 *					the disk must contain; MODEL is brought up to date
 *   crash OPTIONS LOG SEED		writes and flushes until it is killed; what was flushed is
 *in LOG verify OPTIONS LOG SEED		all of that is there
 *   powerloss FILE SEED OPS		an image in memory; at random moments FILE becomes what a
 *disk would hold after a power failure: all that was flushed, any part of what was not dump OPTIONS
 *FILE			the disk's content
 *   open OPTIONS			opens and says its size; code 1 if it cannot
 *
 * OPTIONS:
 *PATH[,raw|qcow2][,ro][,snapshot][,direct][,pool][,one][,offset=N][,size=N][,ram=N][,reconnect=N]
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "bus/bus.h"
#include "io/disk.h"

#define SECTOR        512u
#define IN_FLIGHT     24
#define ONE_AT_A_TIME 0x100u
#define MAX_LEN       (300 * KiB)

struct rig {
	struct bus *bus;
	struct loop *loop;
	struct block *block;
	unsigned depth; /* requests at a time */
};

static void __attribute__((noreturn)) die(const char *what, int err)
{
	fprintf(stderr, "disktool: %s: %s\n", what, strerror(err < 0 ? -err : err));
	/* Threads of the disk are at work; libnbd's asserts that what exit() took away is there. */
	fflush(NULL);
	_exit(1);
}

static u64 rnd(u64 *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s * 0x2545f4914f6cdd1dull >> 11;
}

static u64 mix(u64 a, u64 b)
{
	u64 s = (a * 0x9e3779b97f4a7c15ull) ^ (b + 0x1234567) * 0xc2b2ae3d27d4eb4full;

	s |= 1;
	rnd(&s);
	return rnd(&s);
}

static struct disk_config parse(char *text, unsigned *flags)
{
	struct disk_config c = {.path = strsep(&text, ",")};
	char *w;

	*flags = 0;
	while ((w = strsep(&text, ","))) {
		if (!strcmp(w, "raw"))
			c.format = DISK_RAW;
		else if (!strcmp(w, "qcow2"))
			c.format = DISK_QCOW2;
		else if (!strcmp(w, "ro"))
			c.ro = true;
		else if (!strcmp(w, "snapshot"))
			c.snapshot = true;
		else if (!strcmp(w, "direct"))
			c.direct = true;
		else if (!strcmp(w, "one"))
			*flags |= ONE_AT_A_TIME;
		else if (!strcmp(w, "pool"))
			*flags |= DISK_NO_URING;
		else if (!strncmp(w, "offset=", 7))
			c.offset = strtoull(w + 7, NULL, 0);
		else if (!strncmp(w, "size=", 5))
			c.size = strtoull(w + 5, NULL, 0);
		else if (!strncmp(w, "reconnect=", 10))
			c.reconnect = (unsigned)strtoul(w + 10, NULL, 0);
		else if (!strncmp(w, "ram=", 4))
			c.ram_size = strtoull(w + 4, NULL, 0);
		else
			die(w, EINVAL);
	}
	return c;
}

static void rig_open(struct rig *r, char *options)
{
	unsigned flags;
	struct disk_config c = parse(options, &flags);
	struct image *im;

	if (bus_create(&r->bus, NULL) || loop_create(&r->loop, &r->bus->lock) ||
	    disk_open_image(&im, &c) || disk_create(&r->block, r->loop, im, flags & 0xff))
		exit(1);
	r->depth = flags & ONE_AT_A_TIME ? 1 : IN_FLIGHT;
}

static void rig_close(struct rig *r)
{
	block_destroy(r->block);
	loop_destroy(r->loop);
	bus_destroy(r->bus);
}

/* ---- exercise ---- */

struct slot {
	struct block_req req;
	struct exercise *x;
	bool busy;
	u8 *buf;
	struct iovec iov[8];
};

struct exercise {
	struct rig rig;
	u8 *model;
	u64 size, seed, left, failed;
	u64 hot; /* requests gather within this many bytes, so that they meet */
	unsigned busy;
	struct slot slot[IN_FLIGHT];
};

static void exercise_more(struct exercise *x);

static void exercise_done(struct block_req *r, int err)
{
	struct slot *s = container_of(r, struct slot, req);
	struct exercise *x = s->x;

	if (err) {
		fprintf(stderr, "disktool: op %d at %llu+%llu: %s\n", r->op,
		        (unsigned long long)r->offset, (unsigned long long)r->len, strerror(-err));
		x->failed++;
	} else if (r->op == BLOCK_READ && memcmp(s->buf, x->model + r->offset, r->len)) {
		u64 i = 0;

		while (s->buf[i] == x->model[r->offset + i])
			i++;
		fprintf(stderr, "disktool: read at %llu+%llu differs at %llu: %02x, not %02x\n",
		        (unsigned long long)r->offset, (unsigned long long)r->len,
		        (unsigned long long)i, s->buf[i], x->model[r->offset + i]);
		x->failed++;
	} else if (r->op == BLOCK_DISCARD) {
		/* anything may be there now: make it known */
		r->op = BLOCK_ZERO;
		block_submit(x->rig.block, r);
		block_kick(x->rig.block);
		return;
	} else if (r->op == BLOCK_ZERO) {
		memset(x->model + r->offset, 0, r->len);
	}
	s->busy = false;
	x->busy--;
	exercise_more(x);
}

/* Ranges in flight do not overlap, as a guest's file system sees to; they do share clusters. */
static bool range_free(const struct exercise *x, u64 off, u64 len)
{
	for (unsigned i = 0; i < IN_FLIGHT; i++) {
		const struct block_req *r = &x->slot[i].req;

		if (x->slot[i].busy && r->op != BLOCK_FLUSH && off < r->offset + r->len &&
		    r->offset < off + len)
			return false;
	}
	return true;
}

static void pick(struct exercise *x, struct slot *s)
{
	struct block_req *r = &s->req;
	u64 *seed = &x->seed, dice = rnd(seed) % 100;
	u64 base, max;

	memset(r, 0, sizeof(*r));
	r->op = dice < 38   ? BLOCK_READ
	        : dice < 84 ? BLOCK_WRITE
	        : dice < 88 ? BLOCK_FLUSH
	        : dice < 94 ? BLOCK_DISCARD
	                    : BLOCK_ZERO;
	if (x->rig.block->ro && r->op != BLOCK_FLUSH)
		r->op = BLOCK_READ;
	r->unmap = dice & 1;
	r->done = exercise_done;
	if (r->op == BLOCK_FLUSH)
		return;
	do {
		base = rnd(seed) % 4 ? rnd(seed) % MIN(x->size, x->hot) : rnd(seed) % x->size;
		r->offset = base & ~(u64)(SECTOR - 1);
		max = MIN(x->size - r->offset, rnd(seed) % 8 ? 20 * KiB : MAX_LEN);
		r->len = (1 + rnd(seed) % (max / SECTOR)) * SECTOR;
		if (r->offset % 4096 && rnd(seed) % 2)
			r->offset &= ~4095ull;
	} while (!range_free(x, r->offset, r->len));
}

/* The buffer in unequal pieces, at odd addresses. */
static void scatter(struct exercise *x, struct slot *s)
{
	struct block_req *r = &s->req;
	unsigned want = 1 + (unsigned)(rnd(&x->seed) % 8);
	u64 at = 0;

	for (r->nr_iov = 0; at < r->len; r->nr_iov++) {
		u64 n = r->nr_iov + 1 == want ? r->len - at : rnd(&x->seed) % (r->len - at + 1);

		if (rnd(&x->seed) % 2)
			n = MIN(ALIGN_UP(n, (u64)SECTOR), r->len - at);
		s->iov[r->nr_iov] = (struct iovec){s->buf + at, n};
		at += n;
	}
	r->iov = s->iov;
}

static void exercise_more(struct exercise *x)
{
	for (unsigned i = 0; i < x->rig.depth && x->left; i++) {
		struct slot *s = &x->slot[i];
		struct block_req *r = &s->req;

		if (s->busy)
			continue;
		pick(x, s);
		if (r->op == BLOCK_READ || r->op == BLOCK_WRITE)
			scatter(x, s);
		if (r->op == BLOCK_WRITE) {
			bool zeros = rnd(&x->seed) % 10 == 0;

			for (u64 k = 0; k < r->len; k += 8)
				put_le64(s->buf + k, zeros ? 0 : rnd(&x->seed));
			memcpy(x->model + r->offset, s->buf, r->len);
		}
		s->busy = true;
		x->busy++;
		x->left--;
		block_submit(x->rig.block, r);
	}
	block_kick(x->rig.block);
	if (!x->left && !x->busy)
		loop_stop(x->rig.loop);
}

static void exercise_begin(void *arg)
{
	exercise_more(arg);
}

static int exercise(char *options, const char *model, u64 seed, u64 ops)
{
	struct exercise *x = calloc(1, sizeof(*x));
	struct stat st;
	int fd = open(model, O_RDWR);

	if (fd < 0 || fstat(fd, &st) < 0)
		die(model, errno);
	rig_open(&x->rig, options);
	x->size = x->rig.block->size;
	if ((u64)st.st_size < x->size && ftruncate(fd, (off_t)x->size) < 0)
		die(model, errno);
	x->model = mmap(NULL, x->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (x->model == MAP_FAILED)
		die(model, errno);
	x->seed = seed * 2 + 1;
	x->left = ops;
	x->hot = 2 * MiB;
	for (unsigned i = 0; i < IN_FLIGHT; i++) {
		x->slot[i].x = x;
		x->slot[i].buf = (u8 *)aligned_alloc(4096, MAX_LEN + 4096) + (i % 3) * 64;
	}
	loop_post(x->rig.loop, exercise_begin, x);
	loop_run(x->rig.loop);
	rig_close(&x->rig);
	return x->failed != 0;
}

/* ---- crash and verify ---- */

#define CRASH_UNIT 4096u
#define CRASH_STEP 32 /* writes between flushes */
#define CRASH_SPAN (24 * MiB)

struct crash {
	struct rig rig;
	u64 seed, next, blocks;
	unsigned busy;
	int log;
	struct block_req req[CRASH_STEP + 2];
	struct iovec iov[CRASH_STEP];
	u64 buf[CRASH_STEP][CRASH_UNIT / 8];
};

static u64 crash_block(const struct crash *c, u64 i)
{
	return mix(c->seed, i) % c->blocks;
}

static void crash_step(struct crash *c);

static void crash_flushed(struct block_req *r, int err)
{
	struct crash *c = container_of(r, struct crash, req[CRASH_STEP]);
	u64 upto = c->next;

	if (err || write(c->log, &upto, 8) != 8)
		die("flush", err ? err : errno);
	crash_step(c);
}

static void crash_wrote(struct block_req *r, int err)
{
	struct crash *c = (struct crash *)(uintptr_t)r->hi;

	(void)c;
	if (err)
		die("write", err);
}

/* All requests of a step at once; the flush comes when they are all done. */
static void crash_pump(void *arg)
{
	struct crash *c = arg;
	struct block *b = c->rig.block;

	crash_step(c);
	(void)b;
}

static void crash_step(struct crash *c)
{
	struct block *b = c->rig.block;
	struct block_req *r;

	for (unsigned k = 0; k < CRASH_STEP; k++) {
		u64 i = c->next + k, block = crash_block(c, i);

		for (unsigned w = 0; w < CRASH_UNIT / 8; w += 2) {
			c->buf[k][w] = block;
			c->buf[k][w + 1] = i;
		}
		r = &c->req[k];
		*r = (struct block_req){.op = BLOCK_WRITE,
		                        .offset = block * CRASH_UNIT,
		                        .len = CRASH_UNIT,
		                        .iov = &c->iov[k],
		                        .nr_iov = 1,
		                        .done = crash_wrote};
		c->iov[k] = (struct iovec){c->buf[k], CRASH_UNIT};
		block_submit(b, r);
		if (k % 8 == 7)
			block_drain(b);
	}
	/* elsewhere, so that clusters come free and are used again */
	r = &c->req[CRASH_STEP + 1];
	*r = (struct block_req){.op = BLOCK_DISCARD,
	                        .offset = CRASH_SPAN + (mix(c->seed, c->next) % 64) * 64 * KiB,
	                        .len = 256 * KiB,
	                        .done = crash_wrote};
	block_submit(b, r);
	block_drain(b);
	r = &c->req[0];
	r->offset = CRASH_SPAN + (mix(c->seed, c->next + 1) % 64) * 64 * KiB;
	block_submit(b, r);
	block_drain(b);
	c->next += CRASH_STEP;
	r = &c->req[CRASH_STEP];
	*r = (struct block_req){.op = BLOCK_FLUSH, .done = crash_flushed};
	block_submit(b, r);
	block_kick(b);
}

static struct crash *crash_open(char *options, u64 seed)
{
	struct crash *c = calloc(1, sizeof(*c));

	rig_open(&c->rig, options);
	if (c->rig.block->size < CRASH_SPAN + 8 * MiB)
		die("the image is too small", EINVAL);
	c->seed = seed;
	c->blocks = CRASH_SPAN / CRASH_UNIT;
	return c;
}

static int crash(char *options, const char *log, u64 seed)
{
	struct crash *c = crash_open(options, seed);

	c->log = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
	if (c->log < 0)
		die(log, errno);
	loop_post(c->rig.loop, crash_pump, c);
	loop_run(c->rig.loop);
	return 0;
}

static void read_done(struct block_req *r, int err)
{
	if (err)
		die("read", err);
}

static void read_now(struct block *b, u64 off, void *buf, u64 len)
{
	struct iovec iov = {buf, len};
	struct block_req r = {.op = BLOCK_READ,
	                      .offset = off,
	                      .len = len,
	                      .iov = &iov,
	                      .nr_iov = 1,
	                      .done = read_done};

	block_submit(b, &r);
	block_drain(b);
}

/* A block may hold a later write than the last flushed one; never an earlier or a foreign one. Two
 * writes of a block between flushes may come in either order. */
static int verify(char *options, const char *log, u64 seed)
{
	struct crash *c = crash_open(options, seed);
	u64 upto = 0, word[CRASH_UNIT / 8], *least = calloc(c->blocks, 8), bad = 0;
	int fd = open(log, O_RDONLY);

	while (fd >= 0 && read(fd, &upto, 8) == 8)
		;
	for (u64 i = 0; i < upto; i++)
		least[crash_block(c, i)] = i + 1;
	for (u64 b = 0; b < c->blocks; b++) {
		read_now(c->rig.block, b * CRASH_UNIT, word, CRASH_UNIT);
		if (!least[b] && !word[1] && !word[0])
			continue; /* never flushed, may be empty */
		for (unsigned w = 2; w < CRASH_UNIT / 8; w++)
			bad += word[w] != word[w & 1] && least[b];
		if (least[b] &&
		    (word[0] != b || word[1] < (least[b] - 1) / CRASH_STEP * CRASH_STEP ||
		     crash_block(c, word[1]) != b)) {
			fprintf(stderr, "disktool: block %llu holds %llu/%llu, flushed was %llu\n",
			        (unsigned long long)b, (unsigned long long)word[0],
			        (unsigned long long)word[1], (unsigned long long)least[b] - 1);
			bad++;
		}
	}
	rig_close(&c->rig);
	printf("%llu\n", (unsigned long long)upto);
	return bad != 0;
}

/* ---- power loss ---- */

/* A file whose writes since the last flush are known one by one. */
struct lossy {
	struct image image;
	u8 *now, *stable;
	struct written {
		u64 off, len;
		u8 *data;
	} * list;
	unsigned nr;
	u64 end; /* of the file */
};

#define LOSSY_SIZE (64 * MiB)

static int lossy_read(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	iov_write(iov, n, 0, container_of(im, struct lossy, image)->now + off, iov_total(iov, n));
	return 0;
}

static int lossy_write(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	struct lossy *l = container_of(im, struct lossy, image);
	u64 len = iov_total(iov, n);
	u8 *data = malloc(len);

	if (off + len > LOSSY_SIZE)
		return -ENOSPC;
	iov_read(iov, n, 0, data, len);
	memcpy(l->now + off, data, len);
	l->list = realloc(l->list, (l->nr + 1) * sizeof(*l->list));
	l->list[l->nr++] = (struct written){off, len, data};
	l->end = MAX(l->end, off + len);
	return 0;
}

static int lossy_flush(struct image *im)
{
	struct lossy *l = container_of(im, struct lossy, image);

	for (unsigned i = 0; i < l->nr; i++) {
		memcpy(l->stable + l->list[i].off, l->list[i].data, l->list[i].len);
		free(l->list[i].data);
	}
	l->nr = 0;
	return 0;
}

static void lossy_destroy(struct image *im)
{
}

static const struct image_ops lossy_ops = {
	.read = lossy_read, .write = lossy_write, .flush = lossy_flush, .destroy = lossy_destroy};

/* What is left after the power went: each sector of each write that was not flushed is there or
 * not. */
static void lossy_save(struct lossy *l, const char *path, u64 *seed)
{
	u8 *disk = malloc(LOSSY_SIZE);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	unsigned some = (unsigned)(rnd(seed) % 101);

	memcpy(disk, l->stable, LOSSY_SIZE);
	for (unsigned i = 0; i < l->nr; i++) {
		const struct written *w = &l->list[i];
		bool torn = rnd(seed) % 4 == 0, all = rnd(seed) % 100 < some;

		for (u64 at = 0; at < w->len; at += SECTOR)
			if (torn ? rnd(seed) % 2 : all)
				memcpy(disk + w->off + at, w->data + at, MIN(w->len - at, SECTOR));
	}
	if (fd < 0 || write(fd, disk, l->end) != (ssize_t)l->end)
		die(path, errno);
	close(fd);
	free(disk);
}

/* The errors that qemu-img finds; leaked clusters are none. */
static int check(const char *path)
{
	char cmd[4200];
	int status;

	snprintf(cmd, sizeof(cmd), "qemu-img check -q -f qcow2 '%s' >/dev/null 2>&1", path);
	status = system(cmd);
	return WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3) ? 0 : 1;
}

/* Sectors that were not written since the flush must be as they were then. */
static int check_content(const char *path, const u8 *flushed, const u8 *touched, u64 size)
{
	const struct disk_config cfg = {.path = path, .format = DISK_QCOW2, .ro = true};
	u8 buf[SECTOR];
	struct image *im;
	int bad = 0;

	if (disk_open_image(&im, &cfg))
		return 1;
	for (u64 s = 0; s < size / SECTOR && !bad; s++)
		if (!touched[s])
			bad = image_read(im, s * SECTOR, buf, SECTOR) ||
			      memcmp(buf, flushed + s * SECTOR, SECTOR);
	image_destroy(im);
	return bad;
}

static int powerloss(const char *path, const char *base, u64 seed, u64 ops)
{
	struct lossy *l = calloc(1, sizeof(*l));
	struct image_qcow2_config q = {0};
	struct image *im;
	u8 *model, *flushed, *touched, *buf = malloc(1 * MiB);
	u64 size, s = seed * 2 + 1;
	unsigned cuts = 0, bad = 0;
	int fd = open(base, O_RDONLY), err = 0;

	l->now = calloc(1, LOSSY_SIZE);
	l->stable = calloc(1, LOSSY_SIZE);
	l->image = (struct image){.ops = &lossy_ops,
	                          .name = (char *)(uintptr_t) "memory",
	                          .grows = true,
	                          .zero_tail = true,
	                          .fd = -1,
	                          .align = 1,
	                          .mem_align = 1,
	                          .granule = 1};
	l->end = l->image.size = (u64)read(fd, l->now, LOSSY_SIZE);
	memcpy(l->stable, l->now, LOSSY_SIZE);
	if (fd < 0 || image_qcow2_open(&im, &l->image, &q))
		return 1;
	size = im->size;
	model = calloc(1, size);
	flushed = calloc(1, size);
	touched = calloc(1, size / SECTOR);
	image_read(im, 0, model, size);
	memcpy(flushed, model, size);
	for (u64 i = 0; i < ops && !err; i++) {
		u64 off = rnd(&s) % (size / SECTOR) * SECTOR, dice = rnd(&s) % 100;
		u64 len = MIN(size - off, (1 + rnd(&s) % (rnd(&s) % 8 ? 64 : 600)) * SECTOR);

		if (dice < 70) {
			for (u64 k = 0; k < len; k += 8)
				put_le64(buf + k, rnd(&s));
			memcpy(model + off, buf, len);
			memset(touched + off / SECTOR, 1, len / SECTOR);
			err = image_write(im, off, buf, len);
		} else if (dice < 90) {
			memset(model + off, 0, len);
			memset(touched + off / SECTOR, 1, len / SECTOR);
			err = image_zero(im, off, len, true);
		} else if (dice < 97) {
			err = image_flush(im);
			memcpy(flushed, model, size);
			memset(touched, 0, size / SECTOR);
		} else {
			lossy_save(l, path, &s);
			cuts++;
			if (check(path) || check_content(path, flushed, touched, size)) {
				fprintf(stderr, "disktool: after operation %llu\n",
				        (unsigned long long)i);
				return 1;
			}
		}
	}
	image_destroy(im);
	if (err)
		die("operation", err);
	printf("%u\n", cuts);
	return bad != 0;
}

/* ---- the rest ---- */

static int dump(char *options, const char *file)
{
	struct rig r;
	u8 *buf = malloc(1 * MiB);
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	rig_open(&r, options);
	for (u64 at = 0; at < r.block->size; at += 1 * MiB) {
		u64 n = MIN(r.block->size - at, 1 * MiB);

		read_now(r.block, at, buf, n);
		if (write(fd, buf, n) != (ssize_t)n)
			die(file, errno);
	}
	rig_close(&r);
	return 0;
}

static int open_only(char *options)
{
	struct rig r;

	rig_open(&r, options);
	printf("%llu\n", (unsigned long long)r.block->size);
	rig_close(&r);
	return 0;
}

int main(int argc, char **argv)
{
	log_set_level(LOG_INFO);
	if (argc == 6 && !strcmp(argv[1], "exercise"))
		return exercise(argv[2], argv[3], strtoull(argv[4], NULL, 0),
		                strtoull(argv[5], NULL, 0));
	if (argc == 5 && !strcmp(argv[1], "crash"))
		return crash(argv[2], argv[3], strtoull(argv[4], NULL, 0));
	if (argc == 5 && !strcmp(argv[1], "verify"))
		return verify(argv[2], argv[3], strtoull(argv[4], NULL, 0));
	if (argc == 6 && !strcmp(argv[1], "powerloss"))
		return powerloss(argv[2], argv[3], strtoull(argv[4], NULL, 0),
		                 strtoull(argv[5], NULL, 0));
	if (argc == 4 && !strcmp(argv[1], "dump"))
		return dump(argv[2], argv[3]);
	if (argc == 3 && !strcmp(argv[1], "open"))
		return open_only(argv[2]);
	fprintf(stderr, "disktool: see its source for its arguments\n");
	return 2;
}
