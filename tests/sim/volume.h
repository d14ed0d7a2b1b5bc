/* tests/sim/volume.h -- files and names as a process sees them, and as the disk has them.
 *
 * The lower half of the simulated disk: it knows neither time nor faults (disk_sim.h does). A page
 * of 4 KiB that was written keeps, until it reaches the disk, what the disk has of it. A directory
 * keeps its unsynced name operations in a journal. Room is counted as on a real disk: it goes with
 * the last name and open file.
 */
#ifndef FLUXMQ_TESTS_SIM_VOLUME_H
#define FLUXMQ_TESTS_SIM_VOLUME_H

#include "protocol/base/err.h"
#include "protocol/base/list.h"
#include "tests/sim/sim.h"

#define VOLUME_PAGE      ((size_t)4096)
#define VOLUME_CHUNK     (4 * VOLUME_PAGE) /* contiguous in memory, so that it can be viewed */
#define VOLUME_NAME_SIZE 256

struct page;
struct change;
struct inode;
struct volume;

struct entry {
    char name[VOLUME_NAME_SIZE];
    struct inode *inode;
};

/* A file or a directory. */
struct inode {
    struct list_node node; /* of the volume */
    struct volume *volume;
    int live; /* names and open files */
    int kept; /* durable names, journals */
    bool is_dir;
    bool locked; /* by a process */
    bool failed; /* a write-back failed, and no sync has told so yet */
    /* a file */
    uint8_t **chunks; /* NULL: zeros */
    struct page *pages;
    size_t page_count;                 /* of both arrays */
    size_t changed_first, changed_end; /* all pages that the disk has not lie in between */
    uint64_t size, durable_size, allocated, evicted_at;
    int64_t modified_unix_ms;
    /* a directory: sorted by name */
    struct entry *now, *durable;
    size_t now_count, durable_count;
    struct change *journal;
    size_t journal_count;
};

struct volume {
    struct sim *sim;
    uint64_t total, used, hog; /* hog: what a fault has taken */
    struct inode *root;
    struct list inodes; /* in the order in which they were made */
};

void volume_init(struct volume *v, struct sim *s, uint64_t bytes);
void volume_deinit(struct volume *v);
uint64_t volume_free_bytes(const struct volume *v);

/* ---- names ---- */

/* The directory in which the last part of "/a/b/c" stands, and that name; NULL: there is none. */
struct inode *volume_walk(struct volume *v, const char *path, char name[VOLUME_NAME_SIZE]);
/* What a path names; NULL: nothing. */
struct inode *volume_find(struct volume *v, const char *path);
struct inode *dir_find(const struct inode *dir, const char *name);
/* Each of these is durable only after dir_commit(). */
struct inode *dir_make(struct inode *dir, const char *name, bool is_dir);
void dir_rename(struct inode *dir, const char *name, const char *to);
void dir_remove(struct inode *dir, const char *name);
void dir_commit(struct inode *dir);

/* ---- bytes ---- */

/* An open file keeps its bytes and its room. */
void inode_open(struct inode *i);
void inode_close(struct inode *i);
/* Room up to `end`; false: there is not so much. */
MUST_USE bool inode_allocate(struct inode *i, uint64_t end);
void inode_give_back(struct inode *i, uint64_t end); /* what is beyond */
void inode_write(struct inode *i, uint64_t offset, const void *p, size_t size);
void inode_read(const struct inode *i, uint64_t offset, void *p, size_t size);
/* The size becomes `size`, with zeros beyond. */
void inode_cut(struct inode *i, uint64_t size);
/* The memory in which a page lies as long as its file is open; NULL: it is a hole. */
const uint8_t *inode_page(const struct inode *i, size_t page);

/* Pages that are not in the page cache. */
bool inode_is_cold(const struct inode *i, uint64_t offset, size_t size);
void inode_warm(struct inode *i, uint64_t offset, size_t size);
void inode_evict(struct inode *i); /* all that are clean */

/* All that was written reaches the disk. */
void inode_commit(struct inode *i);
/* Writing back has failed: the pages count as clean, and the disk keeps what it had. */
void inode_lose(struct inode *i);
void volume_commit(struct volume *v); /* names too */

/* ---- what is done to it ---- */

/* Of each page, size and journal the seed says what had reached the disk. Nothing is open. */
void volume_power_failure(struct volume *v);
/* A bit of a durable file whose path has `pattern` in it (NULL: any); false: there is none. */
bool volume_flip_bit(struct volume *v, const char *pattern, char what[256]);

#endif
