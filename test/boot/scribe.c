// SPDX-License-Identifier: MIT
/* Runs in the guest until the monitor is killed, and on the host to see what is left.
 *
 *	guest-scribe write DIR TAG		numbered records of three kinds, each made stable
 * and then reported: "stable TAG KIND NUMBER"
 *	guest-scribe check DIR LOG FILE SLOT	those up to the last number reported of each kind
 *						must be there; prints how many were looked at
 *
 * The kinds are the ways in which programs make data stable: a journal that grows (fdatasync),
 * files that replace others (fsync, rename, fsync of the folder), and a table of slots written in
 * place (O_DIRECT and O_DSYNC). Beside them runs a thread that syncs nothing and gives space back,
 * so that clusters of the image are allocated and freed all the time.
 *
 * What is reported is a promise; what was not yet reported may be there or not, and of the slots
 * one may be half written. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC     0x62697263u
#define MAX_LEN   (192u << 10)
#define SLOT_LEN  (64u << 10)
#define RING      64   /* files and slots; a number's place is its rest */
#define LAST_LOG  8000 /* records, so that the disk doesn't become full */
#define NOISE_LEN (512u << 10)

enum kind { LOG, FILES, SLOTS, NR_KINDS };
static const char *const kind_name[NR_KINDS] = {"log", "file", "slot"};

struct record {
	uint32_t magic, kind, len, reserved; /* of all of it, this included */
	uint64_t number, sum;
};

struct writer {
	const char *dir, *tag;
	enum kind kind;
};

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static uint64_t seed_of(enum kind kind, uint64_t number)
{
	return (number * NR_KINDS + kind + 1) * 0x9e3779b97f4a7c15ull;
}

static uint32_t length_of(enum kind kind, uint64_t number)
{
	uint64_t s = seed_of(kind, number);

	next(&s);
	switch (kind) {
	case LOG:
		return (uint32_t)(sizeof(struct record) + next(&s) % 4000) & ~7u;
	case FILES:
		return (uint32_t)(sizeof(struct record) +
		                  next(&s) % (MAX_LEN - sizeof(struct record))) &
		       ~7u;
	default:
		return 4096u << next(&s) % 5;
	}
}

/* Content that only this number has, at every place. */
static uint32_t fill(void *buf, enum kind kind, uint64_t number)
{
	struct record *r = buf;
	uint64_t s = seed_of(kind, number), *p = (uint64_t *)(r + 1), sum = 0;
	uint32_t len = length_of(kind, number);

	for (uint32_t i = 0; i < (len - sizeof(*r)) / 8; i++)
		sum += p[i] = next(&s);
	*r = (struct record){
		.magic = MAGIC, .kind = kind, .len = len, .number = number, .sum = sum ^ s};
	return len;
}

/* Is it all of that record? */
static bool is_record(const void *buf, size_t have, enum kind kind, uint64_t number)
{
	static uint64_t want[MAX_LEN / 8];
	uint32_t len = fill(want, kind, number);

	return have >= len && !memcmp(buf, want, len);
}

static void fail(const struct writer *w, const char *what)
{
	dprintf(1, "scribe failed: %s %s: %s: %s\n", w->tag, kind_name[w->kind], what,
	        strerror(errno));
	exit(1);
}

static int at(const char *dir, const char *name, int flags)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return open(path, flags | O_CLOEXEC, 0644);
}

/* ---- writing ---- */

static void put(const struct writer *w, int fd, const void *buf, size_t len, off_t off)
{
	if (fd < 0)
		fail(w, "open");
	if (pwrite(fd, buf, len, off) != (ssize_t)len)
		fail(w, "write");
}

static void replace_file(const struct writer *w, int folder, const void *buf, uint32_t len,
                         uint64_t number)
{
	char name[32];
	int fd = at(w->dir, "new", O_WRONLY | O_CREAT | O_TRUNC);

	put(w, fd, buf, len, 0);
	if (fsync(fd))
		fail(w, "fsync");
	close(fd);
	snprintf(name, sizeof(name), "file%u", (unsigned)(number % RING));
	if (renameat(folder, "new", folder, name))
		fail(w, "rename");
	if (fsync(folder))
		fail(w, "fsync of the folder");
}

static void *write_main(void *arg)
{
	const struct writer *w = arg;
	void *buf = mmap(NULL, MAX_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t last = w->kind == LOG ? LAST_LOG : UINT64_MAX;
	off_t end = 0;
	int fd = w->kind == LOG     ? at(w->dir, "log", O_WRONLY | O_CREAT)
	         : w->kind == SLOTS ? at(w->dir, "slots", O_WRONLY | O_CREAT | O_DIRECT | O_DSYNC)
	                            : at(w->dir, ".", O_RDONLY | O_DIRECTORY);

	if (fd < 0 || buf == MAP_FAILED)
		fail(w, "start");
	for (uint64_t i = 1; i <= last; i++) {
		uint32_t len = fill(buf, w->kind, i);

		if (w->kind == LOG) {
			put(w, fd, buf, len, end);
			end += len;
			if (fdatasync(fd))
				fail(w, "fdatasync");
		} else if (w->kind == SLOTS) {
			put(w, fd, buf, len, (off_t)(i % RING) * SLOT_LEN);
		} else {
			replace_file(w, fd, buf, len, i);
		}
		dprintf(1, "stable %s %s %llu\n", w->tag, kind_name[w->kind],
		        (unsigned long long)i);
	}
	return NULL;
}

/* Writes, holes, cuts, and files that go. */
static void *noise_main(void *arg)
{
	const struct writer *w = arg;
	static const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	uint64_t s = (uint64_t)getpid() * 7919 + 1;
	char *buf = calloc(1, NOISE_LEN);

	for (unsigned i = 0;; i++) {
		char name[32];
		off_t off = (off_t)(next(&s) % NOISE_LEN);
		size_t len = 1 + next(&s) % (NOISE_LEN - (size_t)off);
		int fd;

		memset(buf, (int)next(&s), len);
		snprintf(name, sizeof(name), "noise%u", (unsigned)(next(&s) % 8));
		fd = at(w->dir, name, O_RDWR | O_CREAT);
		if (fd < 0)
			fail(w, "noise");
		switch (next(&s) % 8) {
		case 0:
			if (fallocate(fd, punch, off, (off_t)len))
				fail(w, "hole");
			break;
		case 1:
			if (ftruncate(fd, off))
				fail(w, "cut");
			break;
		case 2:
			unlink(name);
			break;
		default:
			put(w, fd, buf, len, off);
		}
		close(fd);
		usleep(2000);
	}
	return NULL;
}

static int write_all(const char *dir, const char *tag)
{
	struct writer w[NR_KINDS + 1];
	pthread_t t[NR_KINDS + 1];

	if (mkdir(dir, 0755) || chdir(dir)) {
		dprintf(1, "scribe failed: %s: %s\n", dir, strerror(errno));
		return 1;
	}
	for (unsigned i = 0; i <= NR_KINDS; i++) {
		w[i] = (struct writer){.dir = ".", .tag = tag, .kind = i < NR_KINDS ? i : LOG};
		if (pthread_create(&t[i], NULL, i < NR_KINDS ? write_main : noise_main, &w[i]))
			return 1;
	}
	for (unsigned i = 0; i <= NR_KINDS; i++)
		pthread_join(t[i], NULL);
	return 0;
}

/* ---- checking ---- */

/* All of a file; "" when there is none. */
static char *content(const char *dir, const char *name, size_t *len)
{
	int fd = at(dir, name, O_RDONLY);
	struct stat st = {0};
	char *buf;
	ssize_t n;

	if (fd >= 0 && fstat(fd, &st))
		st.st_size = 0;
	buf = calloc(1, (size_t)st.st_size + sizeof(struct record));
	*len = 0;
	while (fd >= 0 && buf && *len < (size_t)st.st_size &&
	       (n = read(fd, buf + *len, (size_t)st.st_size - *len)) > 0)
		*len += (size_t)n;
	if (fd >= 0)
		close(fd);
	return buf;
}

static int lost(enum kind kind, uint64_t number, const char *how)
{
	printf("%s %llu: reported as stable, and %s\n", kind_name[kind], (unsigned long long)number,
	       how);
	return 1;
}

static int check_log(const char *dir, uint64_t last)
{
	size_t len, off = 0;
	char *log = content(dir, "log", &len);
	int bad = 0;

	for (uint64_t i = 1; i <= last && !bad; i++) {
		if (!is_record(log + off, len - off, LOG, i))
			bad = lost(LOG, i,
			           off >= len ? "the journal ends before"
			                      : "something else is there");
		off += length_of(LOG, i);
	}
	free(log);
	return bad;
}

/* What is at a place must be whole, be of that place, and be no older than what was reported. */
static int check_place(const char *buf, size_t len, enum kind kind, uint64_t want, int *torn)
{
	struct record r = {0};

	if (len >= sizeof(r))
		memcpy(&r, buf, sizeof(r));
	if (r.magic != MAGIC || r.kind != kind || r.number % RING != want % RING ||
	    r.number > want + (1u << 24))
		return lost(kind, want, "something else is there");
	if (!is_record(buf, len, kind, r.number)) {
		if (!torn || ++*torn > 1)
			return lost(kind, want, "it is half there");
		return 0;
	}
	return r.number < want ? lost(kind, want, "what it replaced is there") : 0;
}

static int check_ring(const char *dir, enum kind kind, uint64_t last)
{
	size_t len = 0;
	char *slots = kind == SLOTS ? content(dir, "slots", &len) : NULL;
	int bad = 0, torn = 0;

	for (uint64_t i = last > RING ? last - RING + 1 : 1; i <= last; i++) {
		size_t off = i % RING * SLOT_LEN;
		char name[32];

		if (kind == SLOTS) {
			bad += check_place(slots + (off < len ? off : len),
			                   off < len ? len - off : 0, kind, i, &torn);
			continue;
		}
		snprintf(name, sizeof(name), "file%u", (unsigned)(i % RING));
		free(slots);
		slots = content(dir, name, &len);
		bad += check_place(slots, len, kind, i, NULL);
	}
	free(slots);
	return bad;
}

static int check_all(const char *dir, char **last)
{
	uint64_t log = strtoull(last[LOG], NULL, 10), file = strtoull(last[FILES], NULL, 10);
	uint64_t slot = strtoull(last[SLOTS], NULL, 10);
	int bad = check_log(dir, log) + check_ring(dir, FILES, file) + check_ring(dir, SLOTS, slot);

	printf("%llu looked at\n", (unsigned long long)(log + (file < RING ? file : RING) +
	                                                (slot < RING ? slot : RING)));
	return bad ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "write"))
		return write_all(argv[2], argv[3]);
	if (argc == 6 && !strcmp(argv[1], "check"))
		return check_all(argv[2], argv + 3);
	fprintf(stderr, "usage: guest-scribe write DIR TAG | check DIR LOG FILE SLOT\n");
	return 2;
}
