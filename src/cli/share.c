// SPDX-License-Identifier: MIT
/* The folder is opened by its name once, here; what the guest does goes on from that descriptor. */
#include "cli/share.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/keyval.h"
#include "dev/virtio_fs.h"

#define EXAMPLE "--share src=/home/me/src,ro"

static int bad_share(const char *arg, const char *why)
{
	log_error("--share %s: %s; for example: " EXAMPLE, *arg ? arg : "\"\"", why);
	return -1;
}

static const char *const lock_words[] = {"guest", "host", NULL};

static const struct keyval_key keys[] = {
	{"ro", KEYVAL_BOOL, offsetof(struct share_option, read_only)},
	{"locks", KEYVAL_WORD, offsetof(struct share_option, locks), .words = lock_words},
};

static int check(struct share_option *s, const char *arg, const struct share_option *others,
                 unsigned nr_others)
{
	char *path = strchr(s->tag, '=');

	if (!path || path == s->tag || !path[1])
		return bad_share(arg, "a tag for the guest to mount it by, \"=\" and a folder are "
		                      "wanted");
	*path = '\0';
	s->path = path + 1;
	if (strlen(s->tag) > VIRTIO_FS_TAG_LEN)
		return bad_share(arg, "a tag has at most 36 bytes");
	for (unsigned i = 0; i < nr_others; i++)
		if (!strcmp(others[i].tag, s->tag))
			return bad_share(arg, "another share has that tag");
	return 0;
}

int share_parse(struct share_option *s, const char *arg, const struct share_option *others,
                unsigned nr_others)
{
	static const struct keyval_def def = {
		.option = "--share",
		.first = "TAG=DIR",
		.first_offset = offsetof(struct share_option, tag),
		.example = EXAMPLE,
		.keys = keys,
		.nr_keys = ARRAY_SIZE(keys),
	};

	*s = (struct share_option){0};
	if (keyval_parse(&def, arg, s, &s->copy) < 0)
		return -1;
	if (check(s, arg, others, nr_others) == 0)
		return 0;
	free(s->copy);
	return -1;
}

static int open_folder(const struct share_option *s)
{
	int fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		log_error("--share %s=%s: cannot open the folder: %s; for example: " EXAMPLE,
		          s->tag, s->path, strerror(errno));
	return fd;
}

int shares_open(struct vm_share *out, const struct share_option *s, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		int fd = open_folder(&s[i]);

		if (fd < 0) {
			shares_close(out, i);
			return -1;
		}
		out[i] = (struct vm_share){.tag = s[i].tag,
		                           .dir_fd = fd,
		                           .read_only = s[i].read_only,
		                           .host_locks = s[i].locks == SHARE_LOCKS_HOST};
	}
	return 0;
}

void shares_close(struct vm_share *shares, unsigned nr)
{
	while (nr)
		close(shares[--nr].dir_fd);
}
