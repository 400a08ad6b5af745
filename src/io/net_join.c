// SPDX-License-Identifier: MIT
/* Who is on a switch is what sockets there are in its folder, which only its user may enter: each
 * member listens on one of its own. Who joins connects to all others; a lock file makes
 * joining one at a time, so of any two members exactly one has connected to the other. Later, in
 * the sandbox, a member needs nothing but accept(2).
 *
 * A member that ended, or was killed, leaves its socket's name behind: a connection is refused, and
 * the next one who joins removes it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "io/net_switch.h"

#define PATH_LEN     512
#define LOCK_WAIT_MS 5000
#define BACKLOG      128

/* A folder of the user's own that nobody else can write. 0 or -errno (logged). */
static int own_folder(const struct net_config *cfg, const char *path)
{
	struct stat st;

	if (mkdir(path, 0700) < 0 && errno != EEXIST) {
		int err = errno;

		log_error("%s: cannot make the folder %s: %s; XDG_RUNTIME_DIR names the folder for "
		          "sockets",
		          cfg->option, path, strerror(err));
		return -err;
	}
	if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
	    (st.st_mode & 022)) {
		log_error(
			"%s: %s is not a folder of your own that only you can write: remove it, or "
			"set XDG_RUNTIME_DIR",
			cfg->option, path);
		return -EPERM;
	}
	return 0;
}

static int find_folder(const struct net_config *cfg, const char *dir, char *path)
{
	const char *base = dir ? dir : getenv("XDG_RUNTIME_DIR");
	char top[PATH_LEN];
	int n, err;

	if (base && *base == '/')
		n = snprintf(top, PATH_LEN, "%s/ringer", base);
	else
		n = snprintf(top, PATH_LEN, "/tmp/ringer-%u", (unsigned)geteuid());
	if (n < PATH_LEN)
		n = snprintf(path, PATH_LEN, "%s/%s", top, cfg->name);
	/* A socket's path, with its own name, has 107 bytes. */
	if (n < 0 || (size_t)n + 24 > sizeof(((struct sockaddr_un *)0)->sun_path)) {
		log_error("%s: the folder for sockets has too long a name: %s; set XDG_RUNTIME_DIR "
		          "to a shorter one",
		          cfg->option, top);
		return -ENAMETOOLONG;
	}
	err = own_folder(cfg, top);
	return err ? err : own_folder(cfg, path);
}

static int take_lock(const struct net_config *cfg, const char *path)
{
	const struct timespec nap = {0, 10 * 1000000};
	char name[PATH_LEN];
	int fd;

	if (snprintf(name, PATH_LEN, "%s/.lock", path) >= PATH_LEN)
		return -ENAMETOOLONG;
	fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		int err = errno;

		log_error("%s: %s: %s", cfg->option, name, strerror(err));
		return -err;
	}
	for (int i = 0; i < LOCK_WAIT_MS / 10; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return fd;
		nanosleep(&nap, NULL);
	}
	log_error("%s: somebody holds %s: is another ringer stuck while it starts?", cfg->option,
	          name);
	close(fd);
	return -EBUSY;
}

bool switch_peer_trusted(int fd, u32 uid)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.uid == uid;
}

static bool address(struct sockaddr_un *sun, const char *path, const char *name)
{
	int n;

	*sun = (struct sockaddr_un){.sun_family = AF_UNIX};
	n = snprintf(sun->sun_path, sizeof(sun->sun_path), "%s/%s", path, name);
	return n > 0 && (size_t)n < sizeof(sun->sun_path);
}

static int new_socket(void)
{
	return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* A connection to the member of that name, or -1. The names of the dead are removed. */
static int connect_to(const char *path, const char *name)
{
	struct sockaddr_un sun;
	int fd;

	if (!address(&sun, path, name))
		return -1;
	fd = new_socket();
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0) {
		if (switch_peer_trusted(fd, geteuid()))
			return fd;
	} else if (errno == ECONNREFUSED) {
		unlink(sun.sun_path);
	} else {
		log_warn("switch: %s does not answer: %s", sun.sun_path, strerror(errno));
	}
	close(fd);
	return -1;
}

static int listen_there(const struct net_config *cfg, const char *path)
{
	struct sockaddr_un sun;
	char name[24];
	int err, fd = new_socket();

	if (fd < 0)
		goto fail;
	for (unsigned i = 0; i < 2 * NET_MAX_NICS; i++) {
		snprintf(name, sizeof(name), "%d.%u", (int)getpid(), i);
		if (!address(&sun, path, name))
			break;
		if (bind(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0) {
			if (listen(fd, BACKLOG) < 0)
				goto fail;
			return fd;
		}
		if (errno != EADDRINUSE)
			goto fail;
	}
	errno = EADDRINUSE;
fail:
	err = errno;
	log_error("%s: cannot listen in %s: %s", cfg->option, path, strerror(err));
	if (fd >= 0)
		close(fd);
	return -err;
}

int switch_join(const struct net_config *cfg, const char *dir, int *listen_fd, int *fds,
                unsigned *nr)
{
	char path[PATH_LEN];
	struct dirent *e;
	int lock, err;
	bool full = false;
	DIR *d;

	*nr = 0;
	*listen_fd = -1;
	err = find_folder(cfg, dir, path);
	if (err)
		return err;
	lock = take_lock(cfg, path);
	if (lock < 0)
		return lock;
	d = opendir(path);
	if (!d) {
		err = -errno;
		log_error("%s: %s: %s", cfg->option, path, strerror(errno));
		close(lock);
		return err;
	}
	/* The names of the dead go first: one of them may be ours. */
	/* cppcheck-suppress readdirCalled ; the stream is this thread's */
	while ((e = readdir(d))) {
		int fd;

		if (e->d_name[0] == '.')
			continue;
		fd = connect_to(path, e->d_name);
		if (fd < 0)
			continue;
		if (*nr < SWITCH_MAX_PEERS) {
			fds[(*nr)++] = fd;
		} else {
			close(fd);
			full = true;
		}
	}
	closedir(d);
	if (full) {
		log_error("%s: %u cards are on this switch already, which is all that it takes",
		          cfg->option, SWITCH_MAX_PEERS + 1);
		err = -EMFILE;
	}
	if (!err) {
		*listen_fd = listen_there(cfg, path);
		if (*listen_fd < 0)
			err = *listen_fd;
	}
	if (err)
		while (*nr)
			close(fds[--*nr]);
	close(lock);
	return err;
}
