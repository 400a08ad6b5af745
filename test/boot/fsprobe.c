// SPDX-License-Identifier: MIT
/* What POSIX promises of a file system, held against the folder that is given: run in a guest on a
 * shared folder, and on the host, where it must pass as well, or the test is wrong.
 *
 * usage: fsprobe DIR [squash]	squash: all files belong to root, whoever makes them
 *	fsprobe --flock FILE	can it be locked?
 * The last line is "N passed, N failed". */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define USER 1000

static unsigned passed, failed;
static bool squash;
static char self[4096];

static void check(bool ok, const char *what, int line)
{
	if (ok) {
		passed++;
		return;
	}
	failed++;
	printf("failed: line %d: %s (%s)\n", line, what, strerror(errno));
	fflush(stdout);
}
#define OK(x) check(!!(x), #x, __LINE__)
#define IS(x) check((x) == 0, #x " == 0", __LINE__)
#define ERR(x, e)                                                                                  \
	do {                                                                                       \
		errno = 0;                                                                         \
		check((x) == -1 && errno == (e), #x ": " #e, __LINE__);                            \
	} while (0)

static void put(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	OK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	IS(close(fd));
}

static bool holds(const char *name, const char *text)
{
	char buf[256];
	int fd = open(name, O_RDONLY);
	ssize_t n = read(fd, buf, sizeof(buf));

	close(fd);
	return n == (ssize_t)strlen(text) && !memcmp(buf, text, (size_t)n);
}

static struct stat of(const char *name)
{
	struct stat st = {0};

	OK(lstat(name, &st) == 0);
	return st;
}

/* Run fn in a child, as `uid`; true when it returned 0. */
static bool child(int (*fn)(void), uid_t uid)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		if (uid && (setgid(uid) || setuid(uid)))
			_exit(99);
		_exit(fn());
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* ---- modes and owners ---- */

static int user_cannot(void)
{
	if (open("private", O_RDONLY) >= 0 || errno != EACCES)
		return 1;
	if (open("shut/f", O_RDONLY) >= 0 || errno != EACCES)
		return 2;
	if (open("new", O_WRONLY | O_CREAT, 0644) >= 0 || errno != EACCES)
		return 3;
	if (chmod("public", 0777) == 0 || errno != EPERM)
		return 4;
	if (unlink("sticky/f") == 0)
		return 5;
	return open("public", O_RDONLY) < 0;
}

static int user_writes(void)
{
	int fd = open("suid", O_WRONLY);

	return fd < 0 || write(fd, "x", 1) != 1;
}

static int user_makes(void)
{
	int fd = open("open/f", O_WRONLY | O_CREAT | O_EXCL, 0600);

	return fd < 0 || mkdir("open/d", 0700) < 0;
}

static void modes(void)
{
	umask(022);
	put("public", "x");
	OK((of("public").st_mode & 07777) == 0644);
	IS(mkdir("m", 0777));
	OK(of("m").st_mode == (S_IFDIR | 0755));
	umask(077);
	IS(mkdir("m2", 0777));
	OK((of("m2").st_mode & 07777) == 0700);
	umask(022);
	for (unsigned mode = 0; mode <= 07777; mode += 0457)
		OK(chmod("public", mode) == 0 && (of("public").st_mode & 07777) == mode);
	IS(chmod("public", 0644));
	put("private", "x");
	IS(chmod("private", 0600));
	IS(mkdir("shut", 0700));
	put("shut/f", "x");
	IS(mkdir("sticky", 0777));
	IS(chmod("sticky", 01777));
	put("sticky/f", "x");
	OK(child(user_cannot, USER));

	put("suid", "x");
	IS(chmod("suid", 06777));
	OK(child(user_writes, USER));
	OK((of("suid").st_mode & 07777) == 0777);
	IS(mkdir("open", 0777));
	IS(chmod("open", 0777));
	OK(child(user_makes, USER));
	OK(of("open/f").st_uid == (squash ? 0 : USER));
	OK(of("open/d").st_gid == (squash ? 0 : USER));
	if (squash) {
		ERR(chown("public", 5, 6), EPERM);
		IS(chown("public", 0, 0));
		return;
	}
	IS(chown("public", 5, 6));
	OK(of("public").st_uid == 5 && of("public").st_gid == 6);
	IS(chown("public", -1, 7));
	OK(of("public").st_uid == 5 && of("public").st_gid == 7);
	IS(chmod("suid", 04755));
	IS(chown("suid", 5, 5));
	OK((of("suid").st_mode & 07777) == 0755);
	IS(chown("open", 0, 77));
	IS(chmod("open", 02777));
	IS(mkdir("open/inherits", 0755));
	OK(of("open/inherits").st_gid == 77 && of("open/inherits").st_mode & S_ISGID);
}

/* ---- names ---- */

static void renames(void)
{
	int fd;

	put("a", "A");
	put("b", "B");
	fd = open("b", O_RDONLY);
	IS(rename("a", "b"));
	OK(holds("b", "A"));
	OK(fstat(fd, &(struct stat){0}) == 0);
	{
		char c;
		OK(read(fd, &c, 1) == 1 && c == 'B'); /* what was replaced lives on */
	}
	close(fd);
	ERR(access("a", F_OK), ENOENT);
	IS(mkdir("d", 0755));
	IS(mkdir("e", 0755));
	put("e/f", "F");
	ERR(rename("d", "e"), ENOTEMPTY);
	IS(rename("e", "d"));
	OK(holds("d/f", "F"));
	ERR(rename("d", "b"), ENOTDIR);
	ERR(rename("b", "d"), EISDIR);
	ERR(rename("d", "d/sub"), EINVAL);
	ERR(rename("nothing", "x"), ENOENT);
	put("c", "C");
	ERR(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_NOREPLACE), EEXIST);
	IS(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE));
	OK(holds("b", "C") && holds("c", "A"));
	IS(renameat2(AT_FDCWD, "c", AT_FDCWD, "d", RENAME_EXCHANGE));
	OK(holds("c/f", "F") && holds("d", "A"));
	IS(link("b", "b2"));
	IS(rename("b", "b2")); /* the same file: nothing happens */
	OK(holds("b", "C") && holds("b2", "C"));
	IS(mkdir("p", 0755));
	IS(mkdir("q", 0755));
	put("p/x", "X");
	IS(rename("p/x", "q/y"));
	OK(holds("q/y", "X"));
	IS(rmdir("p"));
	ERR(rmdir("q"), ENOTEMPTY);
}

static void links(void)
{
	char buf[300];

	put("f", "text");
	IS(link("f", "g"));
	OK(of("f").st_nlink == 2 && of("f").st_ino == of("g").st_ino);
	ERR(link("f", "g"), EEXIST);
	IS(mkdir("d", 0755));
	ERR(link("d", "d2"), EPERM);
	IS(unlink("f"));
	OK(of("g").st_nlink == 1 && holds("g", "text"));
	IS(symlink("g", "s"));
	OK(readlink("s", buf, sizeof(buf)) == 1 && buf[0] == 'g');
	OK(holds("s", "text") && S_ISLNK(of("s").st_mode) && of("s").st_size == 1);
	IS(symlink("loop", "loop"));
	ERR(open("loop", O_RDONLY), ELOOP);
	ERR(open("s", O_RDONLY | O_NOFOLLOW), ELOOP);
	IS(symlink("later", "dangling"));
	ERR(open("dangling", O_RDONLY), ENOENT);
	put("dangling", "made");
	OK(holds("later", "made"));
	IS(linkat(AT_FDCWD, "s", AT_FDCWD, "s2", 0));
	OK(S_ISLNK(of("s2").st_mode) && of("s").st_nlink == 2);
	memset(buf, 'n', 256);
	buf[256] = '\0';
	ERR(open(buf, O_RDWR | O_CREAT, 0644), ENAMETOOLONG);
	buf[255] = '\0';
	put(buf, "long");
	OK(holds(buf, "long"));
	put("a b\nc\t\\\xff\xfe*", "odd");
	OK(holds("a b\nc\t\\\xff\xfe*", "odd"));
	ERR(unlink("d"), EISDIR);
	ERR(rmdir("g"), ENOTDIR);
	ERR(mkdir("g/x", 0755), ENOTDIR);
	ERR(open("g/x", O_RDONLY), ENOTDIR);
	ERR(open("g", O_RDONLY | O_DIRECTORY), ENOTDIR);
	ERR(open("d", O_WRONLY), EISDIR);
}

static void special(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = "sock"};
	int s = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
	char buf[8];
	pid_t pid;
	int fd;

	IS(mkfifo("fifo", 0600));
	fflush(stdout);
	pid = fork();
	if (!pid) {
		fd = open("fifo", O_WRONLY);
		_exit(write(fd, "pipe", 4) != 4);
	}
	fd = open("fifo", O_RDONLY);
	OK(read(fd, buf, 8) == 4 && !memcmp(buf, "pipe", 4));
	close(fd);
	waitpid(pid, NULL, 0);
	IS(bind(s, (struct sockaddr *)&sa, sizeof(sa)));
	IS(listen(s, 1));
	IS(connect(c, (struct sockaddr *)&sa, sizeof(sa)));
	OK(S_ISSOCK(of("sock").st_mode));
	close(s);
	close(c);
}

/* ---- data ---- */

static void open_and_gone(void)
{
	int fd = open("gone", O_RDWR | O_CREAT | O_EXCL, 0644), d;
	struct stat st;
	char buf[8];

	ERR(open("gone", O_RDWR | O_CREAT | O_EXCL, 0644), EEXIST);
	OK(write(fd, "hello", 5) == 5);
	IS(unlink("gone"));
	ERR(access("gone", F_OK), ENOENT);
	OK(pread(fd, buf, 5, 0) == 5 && !memcmp(buf, "hello", 5));
	OK(pwrite(fd, "J", 1, 0) == 1 && pread(fd, buf, 1, 0) == 1 && buf[0] == 'J');
	OK(fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 5);
	IS(ftruncate(fd, 100));
	OK(fstat(fd, &st) == 0 && st.st_size == 100);
	IS(fchmod(fd, 0600));
	put("gone", "another");
	OK(pread(fd, buf, 1, 0) == 1 && buf[0] == 'J');
	close(fd);
	IS(mkdir("dir", 0755));
	d = open("dir", O_RDONLY | O_DIRECTORY);
	IS(rmdir("dir"));
	ERR(openat(d, "x", O_WRONLY | O_CREAT, 0644), ENOENT);
	close(d);
	fd = open(".", O_TMPFILE | O_RDWR, 0644);
	if (fd >= 0) {
		char path[64];

		OK(write(fd, "tmp", 3) == 3);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		IS(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
		OK(holds("named", "tmp"));
		close(fd);
	} else {
		OK(errno == EOPNOTSUPP);
	}
}

#define APPENDERS 4
#define LINES     200

static void appends(void)
{
	unsigned count[APPENDERS] = {0}, bad = 0;
	char line[17];
	int fd;

	fflush(stdout);
	for (int i = 0; i < APPENDERS; i++)
		if (!fork()) {
			fd = open("log", O_WRONLY | O_CREAT | O_APPEND, 0644);
			for (int j = 0; j < LINES; j++) {
				snprintf(line, sizeof(line), "%d line %8d\n", i, j);
				if (write(fd, line, 16) != 16)
					_exit(1);
			}
			_exit(0);
		}
	for (int i = 0, status; i < APPENDERS; i++)
		OK(wait(&status) > 0 && status == 0);
	fd = open("log", O_RDONLY);
	while (read(fd, line, 16) == 16)
		if (line[0] >= '0' && line[0] < '0' + APPENDERS && line[15] == '\n')
			count[line[0] - '0']++;
		else
			bad++;
	close(fd);
	OK(!bad);
	for (int i = 0; i < APPENDERS; i++)
		OK(count[i] == LINES);
	OK(of("log").st_size == APPENDERS * LINES * 16);
}

static unsigned char pattern(size_t i, unsigned seed)
{
	return (unsigned char)((i * 2654435761u >> 13) + i + seed);
}

static bool range_is(int fd, size_t off, size_t n, unsigned seed)
{
	unsigned char *buf = malloc(n);
	size_t i = 0;
	bool ok = pread(fd, buf, n, (off_t)off) == (ssize_t)n;

	while (ok && i < n && buf[i] == pattern(off + i, seed))
		i++;
	free(buf);
	return ok && i == n;
}

#define BIG (12u << 20)

static void large(void)
{
	int fd = open("big", O_RDWR | O_CREAT, 0644);
	unsigned char *buf = malloc(BIG);
	size_t at = 0, step = 1;
	struct stat st;

	for (size_t i = 0; i < BIG; i++)
		buf[i] = pattern(i, 0);
	while (at < BIG) { /* in all sizes, at odd offsets */
		size_t n = step % 300007 + 1;

		n = n < BIG - at ? n : BIG - at;
		if (pwrite(fd, buf + at, n, (off_t)at) != (ssize_t)n)
			break;
		at += n;
		step = step * 3 + 7;
	}
	OK(at == BIG);
	IS(fsync(fd));
	OK(range_is(fd, 0, BIG, 0));
	close(fd);
	IS(setxattr("big", "user.drop", "x", 1, 0));
	fd = open("big", O_RDWR);
	OK(range_is(fd, 0, BIG, 0));
	OK(range_is(fd, BIG - 5000, 5000, 0));
	OK(pread(fd, buf, 100, BIG) == 0);
	OK(pread(fd, buf, 100, BIG - 10) == 10);
	IS(ftruncate(fd, 5001));
	IS(ftruncate(fd, 20000));
	OK(range_is(fd, 0, 5001, 0));
	memset(buf, 1, 20000);
	OK(pread(fd, buf, 14999, 5001) == 14999 && !buf[0] && !memcmp(buf, buf + 1, 14998));
	OK(pwrite(fd, "end", 3, 5ll << 30) == 3);
	OK(fstat(fd, &st) == 0 && st.st_size == (5ll << 30) + 3 && st.st_blocks < 20000);
	OK(pread(fd, buf, 10, (5ll << 30) - 2) == 5 && !memcmp(buf, "\0\0end", 5));
	OK(lseek(fd, 1 << 20, SEEK_DATA) > 1 << 20);
	OK(lseek(fd, 0, SEEK_HOLE) < 5ll << 30);
	OK(lseek(fd, 0, SEEK_END) == (5ll << 30) + 3);
	IS(ftruncate(fd, 0));
	IS(fallocate(fd, 0, 0, 1 << 20));
	OK(fstat(fd, &st) == 0 && st.st_size == 1 << 20);
	OK(pwrite(fd, buf, 20000, 0) == 20000);
	IS(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192));
	OK(pread(fd, buf, 8192, 4096) == 8192 && !buf[0] && !memcmp(buf, buf + 1, 8191));
	close(fd);
	fd = open("direct", O_RDWR | O_CREAT | O_DIRECT, 0644);
	if (fd >= 0) {
		void *p = aligned_alloc(4096, 65536);

		memset(p, 'd', 65536);
		OK(pwrite(fd, p, 65536, 0) == 65536);
		memset(p, 0, 65536);
		OK(pread(fd, p, 65536, 0) == 65536 && ((char *)p)[65535] == 'd');
		free(p);
		close(fd);
	}
	free(buf);
}

static void copies(void)
{
	int a = open("from", O_RDWR | O_CREAT, 0644), b = open("to", O_RDWR | O_CREAT, 0644);
	unsigned char *buf = malloc(1 << 20);
	off_t from = 0, to = 0;
	size_t left = 1 << 20;

	for (size_t i = 0; i < 1 << 20; i++)
		buf[i] = pattern(i, 3);
	OK(write(a, buf, 1 << 20) == 1 << 20);
	while (left) {
		ssize_t n = copy_file_range(a, &from, b, &to, left, 0);

		if (n <= 0)
			break;
		left -= (size_t)n;
	}
	OK(!left);
	OK(range_is(b, 0, 1 << 20, 3));
	IS(ftruncate(b, 0));
	IS(lseek(b, 0, SEEK_SET));
	from = 0;
	OK(sendfile(b, a, &from, 1 << 20) == 1 << 20);
	OK(range_is(b, 0, 1 << 20, 3));
	close(a);
	close(b);
	free(buf);
}

static void mappings(void)
{
	int fd = open("map", O_RDWR | O_CREAT | O_APPEND, 0644);
	char *p, *q, buf[16], cmd[4200];
	pid_t pid;
	int status;

	IS(ftruncate(fd, 3 * 4096 + 100));
	p = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	OK(p != MAP_FAILED);
	memcpy(p + 4090, "across a page", 13);
	OK(pread(fd, buf, 13, 4090) == 13 && !memcmp(buf, "across a page", 13));
	OK(pwrite(open("map", O_WRONLY), "write", 5, 100) == 5);
	OK(!memcmp(p + 100, "write", 5));
	IS(msync(p, 4 * 4096, MS_SYNC));
	OK(of("map").st_size == 3 * 4096 + 100); /* written back in place, though O_APPEND */
	q = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	memcpy(q + 100, "other", 5);
	OK(pread(fd, buf, 5, 100) == 5 && !memcmp(buf, "write", 5));
	munmap(q, 4096);
	munmap(p, 4 * 4096);
	close(fd);
	fd = open("map", O_RDONLY);
	OK(fd >= 0 && pread(fd, buf, 13, 4090) == 13 && !memcmp(buf, "across a page", 13));
	close(fd);
	/* Run a program from there. */
	snprintf(cmd, sizeof(cmd), "cp %s prog && chmod 755 prog", self);
	IS(system(cmd));
	fflush(stdout);
	pid = fork();
	if (!pid) {
		execl("./prog", "prog", "--exec", NULL);
		_exit(1);
	}
	OK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

/* ---- locks ---- */

static struct flock range(short type, off_t start, off_t len)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
}

static int other_conflicts(void)
{
	int fd = open("lock", O_RDWR);
	struct flock w = range(F_WRLCK, 5, 1), r = range(F_RDLCK, 20, 5), g = range(F_WRLCK, 0, 0);

	if (fcntl(fd, F_SETLK, &w) == 0 || (errno != EAGAIN && errno != EACCES))
		return 1;
	if (fcntl(fd, F_SETLK, &r))
		return 2;
	if (fcntl(fd, F_GETLK, &g) || g.l_type != F_WRLCK || g.l_start != 0 || g.l_len != 10)
		return 3;
	return flock(fd, LOCK_SH | LOCK_NB) == 0;
}

static int other_free(void)
{
	int fd = open("lock", O_RDWR);
	struct flock w = range(F_WRLCK, 0, 0);

	return fcntl(fd, F_SETLK, &w);
}

static int other_waits(void)
{
	int fd = open("lock", O_RDWR);
	struct flock w = range(F_WRLCK, 0, 0);

	return fcntl(fd, F_SETLKW, &w);
}

static void locks(void)
{
	int fd = open("lock", O_RDWR | O_CREAT, 0644), status;
	struct flock w = range(F_WRLCK, 0, 10), u = range(F_UNLCK, 0, 0);
	pid_t pid;

	IS(fcntl(fd, F_SETLK, &w));
	IS(flock(fd, LOCK_EX));
	OK(child(other_conflicts, 0));
	fflush(stdout);
	pid = fork();
	if (!pid)
		_exit(other_waits());
	usleep(100000);
	OK(waitpid(pid, &status, WNOHANG) == 0);
	IS(fcntl(fd, F_SETLK, &u));
	OK(waitpid(pid, &status, 0) == pid && status == 0);
	IS(fcntl(fd, F_SETLK, &w));
	close(open("lock", O_RDONLY)); /* any close lets go of POSIX locks */
	OK(child(other_free, 0));
	IS(flock(fd, LOCK_UN));
	close(fd);
}

/* ---- directories ---- */

#define MANY 1500

static void many(void)
{
	unsigned seen = 0, again = 0;
	char name[32];
	struct dirent *e;
	long pos = 0;
	DIR *d;

	IS(mkdir("many", 0755));
	for (int i = 0; i < MANY; i++) {
		int fd;

		snprintf(name, sizeof(name), "many/file%d", i);
		fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
		if (fd < 0 || write(fd, name, strlen(name)) < 0)
			failed++;
		close(fd);
	}
	d = opendir("many");
	while ((e = readdir(d))) {
		if (e->d_name[0] != '.')
			seen++;
		if (seen == MANY / 2 && !pos)
			pos = telldir(d);
	}
	OK(seen == MANY);
	seekdir(d, pos);
	while ((e = readdir(d)))
		again += e->d_name[0] != '.';
	OK(again == MANY - MANY / 2);
	rewinddir(d);
	for (seen = 0; (e = readdir(d));) /* removing what was read */
		if (e->d_name[0] != '.') {
			snprintf(name, sizeof(name), "many/%.20s", e->d_name);
			seen += unlink(name) == 0;
		}
	closedir(d);
	OK(seen == MANY);
	IS(rmdir("many"));
}

#define DEEP 60

static void deep(void)
{
	char top[4096], now[4096], name[64];
	unsigned ok = 0;

	OK(getcwd(top, sizeof(top)));
	for (int i = 0; i < DEEP; i++) {
		snprintf(name, sizeof(name), "level-with-a-longer-name-%d", i);
		ok += !mkdir(name, 0755) && !chdir(name);
	}
	OK(ok == DEEP);
	put("bottom", "x");
	OK(getcwd(now, sizeof(now)) && strlen(now) > DEEP * 25);
	OK(holds("../../../level-with-a-longer-name-57/level-with-a-longer-name-58/"
	         "level-with-a-longer-name-59/bottom",
	         "x"));
	IS(unlink("bottom"));
	for (int i = DEEP - 1; i >= 0; i--) {
		snprintf(name, sizeof(name), "level-with-a-longer-name-%d", i);
		ok -= !chdir("..") && !rmdir(name);
	}
	OK(ok == 0);
	OK(getcwd(now, sizeof(now)) && !strcmp(now, top));
}

static int crowd_member(unsigned seed)
{
	char a[16], b[16];

	for (int i = 0; i < 150; i++) {
		int fd;

		snprintf(a, sizeof(a), "c%u", rand_r(&seed) % 8);
		snprintf(b, sizeof(b), "c%u", rand_r(&seed) % 8);
		fd = open(a, O_RDWR | O_CREAT, 0644);
		if (fd < 0 || write(fd, "x", 1) != 1)
			return 1;
		close(fd);
		if (rename(a, b) && errno != ENOENT)
			return 2;
		if (unlink(a) && errno != ENOENT)
			return 3;
		if (stat(b, &(struct stat){0}) && errno != ENOENT)
			return 4;
	}
	return 0;
}

static void crowd(void)
{
	IS(mkdir("crowd", 0755));
	IS(chdir("crowd"));
	fflush(stdout);
	for (unsigned i = 0; i < 4; i++)
		if (!fork())
			_exit(crowd_member(i));
	for (int i = 0, status; i < 4; i++)
		OK(wait(&status) > 0 && status == 0);
	IS(system("rm -f c*"));
	IS(chdir(".."));
	IS(rmdir("crowd"));
}

/* ---- the rest ---- */

static void times(void)
{
	struct timespec t[2] = {{1000, 1}, {2000, 999999999}};
	struct stat a, b;

	put("f", "x");
	IS(utimensat(AT_FDCWD, "f", t, 0));
	a = of("f");
	OK(a.st_atim.tv_sec == 1000 && a.st_mtim.tv_sec == 2000 && a.st_mtim.tv_nsec == 999999999);
	t[0].tv_nsec = UTIME_OMIT;
	t[1].tv_nsec = UTIME_NOW;
	IS(utimensat(AT_FDCWD, "f", t, 0));
	b = of("f");
	OK(b.st_atim.tv_sec == 1000 && b.st_mtim.tv_sec > 1000000000);
	t[0] = t[1] = (struct timespec){5000, 0};
	IS(utimensat(AT_FDCWD, "f", t, 0));
	put("f", "y");
	OK(of("f").st_mtim.tv_sec > 1000000000);
	IS(symlink("f", "s"));
	IS(utimensat(AT_FDCWD, "s", t, AT_SYMLINK_NOFOLLOW));
	OK(of("s").st_mtim.tv_sec == 5000 && of("f").st_mtim.tv_sec > 5000);
}

static void xattrs(void)
{
	char buf[70000];
	int fd;

	put("x", "x");
	ERR(getxattr("x", "user.a", buf, 10), ENODATA);
	IS(setxattr("x", "user.a", "value", 5, 0));
	OK(getxattr("x", "user.a", buf, 10) == 5 && !memcmp(buf, "value", 5));
	OK(getxattr("x", "user.a", NULL, 0) == 5);
	ERR(getxattr("x", "user.a", buf, 3), ERANGE);
	ERR(setxattr("x", "user.a", "v", 1, XATTR_CREATE), EEXIST);
	ERR(setxattr("x", "user.b", "v", 1, XATTR_REPLACE), ENODATA);
	memset(buf, 'b', 2000);
	IS(setxattr("x", "user.b", buf, 2000, 0));
	OK(listxattr("x", buf, sizeof(buf)) == 14);
	fd = open("x", O_RDONLY);
	OK(fgetxattr(fd, "user.b", NULL, 0) == 2000);
	IS(fremovexattr(fd, "user.b"));
	close(fd);
	IS(removexattr("x", "user.a"));
	ERR(removexattr("x", "user.a"), ENODATA);
}

static void whole(void)
{
	struct statvfs v;
	int fd;

	OK(statvfs(".", &v) == 0 && v.f_blocks > 0 && v.f_bfree <= v.f_blocks &&
	   v.f_namemax == 255);
	fd = open(".", O_RDONLY | O_DIRECTORY);
	IS(fsync(fd));
	IS(syncfs(fd));
	close(fd);
}

static const struct {
	const char *name;
	void (*fn)(void);
} tests[] = {
	{"modes", modes},        {"renames", renames}, {"links", links},   {"special", special},
	{"open", open_and_gone}, {"appends", appends}, {"large", large},   {"copies", copies},
	{"mappings", mappings},  {"locks", locks},     {"many", many},     {"deep", deep},
	{"crowd", crowd},        {"times", times},     {"xattrs", xattrs}, {"whole", whole},
};

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--exec"))
		return 42;
	if (argc > 2 && !strcmp(argv[1], "--flock"))
		return flock(open(argv[2], O_RDWR), LOCK_EX | LOCK_NB) != 0;
	if (argc < 2 || chdir(argv[1])) {
		fprintf(stderr, "usage: fsprobe DIR [squash]\n");
		return 2;
	}
	squash = argc > 2;
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 2;
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		struct timespec a, b;
		unsigned before = failed;

		if (mkdir(tests[i].name, 0755) || chdir(tests[i].name)) {
			perror(tests[i].name);
			return 2;
		}
		clock_gettime(CLOCK_MONOTONIC, &a);
		tests[i].fn();
		clock_gettime(CLOCK_MONOTONIC, &b);
		printf("%-10s %s, %ld ms\n", tests[i].name, failed == before ? "ok" : "FAILED",
		       (long)((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000));
		fflush(stdout);
		if (chdir(".."))
			return 2;
	}
	printf("%u passed, %u failed\n", passed, failed);
	return failed != 0;
}
