#include "tests/sim/volume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE            VOLUME_PAGE
#define CHUNK           VOLUME_CHUNK
#define SECTOR          ((size_t)512) /* what a torn page is torn at */
#define PAGES_PER_CHUNK (CHUNK / PAGE)
#define PATH_BYTES_MAX  4096

struct page {
    uint8_t *saved; /* what the disk has, when it differs; NULL: zeros */
    bool changed;   /* the disk has something else than the page cache */
    bool lost;      /* and will keep it: writing it back has failed */
    bool cold;      /* not in the page cache */
    bool written;   /* ever; else it is a hole of zeros */
};

enum change_kind { CHANGE_LINK, CHANGE_UNLINK, CHANGE_RENAME };

/* A name operation that is not durable yet. */
struct change {
    enum change_kind kind;
    char name[VOLUME_NAME_SIZE], to[VOLUME_NAME_SIZE];
    struct inode *inode; /* of LINK */
};

/* ---- inodes ---- */

static struct inode *inode_new(struct volume *v, bool is_dir)
{
    struct inode *i = xcalloc(1, sizeof *i);

    i->volume = v;
    i->is_dir = is_dir;
    list_push_back(&v->inodes, &i->node);
    return i;
}

/* Memory alone. */
static void inode_drop(struct inode *i)
{
    for (size_t p = 0; p < i->page_count; p++)
        free(i->pages[p].saved);
    for (size_t c = 0; c < i->page_count / PAGES_PER_CHUNK; c++)
        free(i->chunks[c]);
    free(i->chunks);
    free(i->pages);
    free(i->now);
    free(i->durable);
    free(i->journal);
    list_remove(&i->node);
    free(i);
}

static void inode_kept(struct inode *i, int by);

/* A directory that is gone for good keeps nothing any more. */
static void inode_free(struct inode *i)
{
    for (size_t k = 0; k < i->durable_count; k++)
        inode_kept(i->durable[k].inode, -1);
    for (size_t k = 0; k < i->journal_count; k++)
        if (i->journal[k].inode != NULL)
            inode_kept(i->journal[k].inode, -1);
    inode_drop(i);
}

/* The room goes with the last name and open file; the bytes stay while a power failure may bring
 * the name back. */
static void inode_live(struct inode *i, int by)
{
    i->live += by;
    if (i->live == 0) {
        i->volume->used -= i->allocated;
        i->allocated = 0;
        i->locked = false;
        if (i->kept == 0)
            inode_free(i);
    }
}

static void inode_kept(struct inode *i, int by)
{
    i->kept += by;
    if (i->live == 0 && i->kept == 0)
        inode_free(i);
}

void inode_open(struct inode *i)
{
    inode_live(i, 1);
}

void inode_close(struct inode *i)
{
    inode_live(i, -1);
}

uint64_t volume_free_bytes(const struct volume *v)
{
    uint64_t taken = v->used + v->hog;

    return taken < v->total ? v->total - taken : 0;
}

bool inode_allocate(struct inode *i, uint64_t end)
{
    uint64_t want = (end + PAGE - 1) / PAGE * PAGE;

    if (want <= i->allocated)
        return true;
    if (want - i->allocated > volume_free_bytes(i->volume))
        return false;
    i->volume->used += want - i->allocated;
    i->allocated = want;
    return true;
}

void inode_give_back(struct inode *i, uint64_t end)
{
    uint64_t keep = (end + PAGE - 1) / PAGE * PAGE;

    if (keep < i->allocated) {
        i->volume->used -= i->allocated - keep;
        i->allocated = keep;
    }
}

/* ---- pages ---- */

static void grow_pages(struct inode *i, size_t pages)
{
    size_t count = i->page_count;

    if (pages <= count)
        return;
    count = MAX(pages, count * 2);
    count = (count + PAGES_PER_CHUNK - 1) / PAGES_PER_CHUNK * PAGES_PER_CHUNK;
    i->pages = xrealloc(i->pages, count * sizeof *i->pages);
    memset(i->pages + i->page_count, 0, (count - i->page_count) * sizeof *i->pages);
    i->chunks = xrealloc(i->chunks, count / PAGES_PER_CHUNK * sizeof *i->chunks);
    memset(i->chunks + i->page_count / PAGES_PER_CHUNK, 0,
           (count - i->page_count) / PAGES_PER_CHUNK * sizeof *i->chunks);
    i->page_count = count;
}

/* NULL: zeros. */
static uint8_t *page_bytes(const struct inode *i, size_t page)
{
    uint8_t *c = page < i->page_count ? i->chunks[page / PAGES_PER_CHUNK] : NULL;

    return c != NULL ? c + page % PAGES_PER_CHUNK * PAGE : NULL;
}

const uint8_t *inode_page(const struct inode *i, size_t page)
{
    return page_bytes(i, page);
}

static uint8_t *page_make(struct inode *i, size_t page)
{
    grow_pages(i, page + 1);
    if (i->chunks[page / PAGES_PER_CHUNK] == NULL)
        i->chunks[page / PAGES_PER_CHUNK] = xcalloc(1, CHUNK);
    return page_bytes(i, page);
}

/* Before the first change after it was durable: what the disk has is kept. */
static void page_will_change(struct inode *i, size_t page)
{
    struct page *p = &i->pages[page];

    if (!p->changed) {
        p->changed = true;
        if (p->written) {
            p->saved = xmalloc(PAGE);
            memcpy(p->saved, page_bytes(i, page), PAGE);
        }
        if (i->changed_first == i->changed_end) {
            i->changed_first = page;
            i->changed_end = page + 1;
        } else {
            i->changed_first = MIN(i->changed_first, page);
            i->changed_end = MAX(i->changed_end, page + 1);
        }
    }
    p->lost = false;
    p->cold = false;
}

static void page_is_durable(struct page *p)
{
    free(p->saved);
    p->saved = NULL;
    p->changed = false;
}

/* Back to what the disk has. */
static void page_revert(struct inode *i, size_t page)
{
    struct page *p = &i->pages[page];

    if (page_bytes(i, page) != NULL) {
        if (p->saved != NULL)
            memcpy(page_bytes(i, page), p->saved, PAGE);
        else
            memset(page_bytes(i, page), 0, PAGE);
    }
    p->written = p->saved != NULL;
    p->lost = false;
    page_is_durable(p);
}

/* Each sector as one or the other. */
static void page_tear(struct inode *i, size_t page)
{
    struct page *p = &i->pages[page];
    uint64_t which = sim_random(i->volume->sim, DICE_DISK);
    uint8_t *bytes = page_make(i, page);

    for (size_t s = 0; s < PAGE / SECTOR; s++) {
        if ((which >> s & 1) == 0)
            continue;
        if (p->saved != NULL)
            memcpy(bytes + s * SECTOR, p->saved + s * SECTOR, SECTOR);
        else
            memset(bytes + s * SECTOR, 0, SECTOR);
    }
    page_is_durable(p);
}

static bool is_zero(const uint8_t *p, size_t size)
{
    return size == 0 || (p[0] == 0 && memcmp(p, p + 1, size - 1) == 0);
}

void inode_write(struct inode *i, uint64_t offset, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;

    while (size > 0) {
        size_t page = (size_t)(offset / PAGE), at = (size_t)(offset % PAGE);
        size_t n = MIN(size, PAGE - at);

        grow_pages(i, page + 1);
        if (i->pages[page].written || !is_zero(p, n)) { /* zeros in a hole are no change */
            page_make(i, page);
            page_will_change(i, page);
            memcpy(page_bytes(i, page) + at, p, n);
            i->pages[page].written = true;
        }
        p += n;
        offset += n;
        size -= n;
    }
}

void inode_read(const struct inode *i, uint64_t offset, void *to, size_t size)
{
    uint8_t *p = to;

    while (size > 0) {
        size_t page = (size_t)(offset / PAGE), at = (size_t)(offset % PAGE);
        size_t n = MIN(size, PAGE - at);
        const uint8_t *bytes = page_bytes(i, page);

        if (bytes != NULL)
            memcpy(p, bytes + at, n);
        else
            memset(p, 0, n);
        p += n;
        offset += n;
        size -= n;
    }
}

/* Zeros from `size` on, in the page cache; the disk keeps what it has until a sync. */
void inode_cut(struct inode *i, uint64_t size)
{
    size_t page = (size_t)(size / PAGE), at = (size_t)(size % PAGE);

    for (; page < i->page_count; page++, at = 0) {
        if (!i->pages[page].written)
            continue;
        page_will_change(i, page);
        memset(page_bytes(i, page) + at, 0, PAGE - at);
        if (at == 0)
            i->pages[page].written = i->pages[page].saved != NULL;
    }
    i->size = size;
}

bool inode_is_cold(const struct inode *i, uint64_t offset, size_t size)
{
    size_t last = size > 0 ? (size_t)((offset + size - 1) / PAGE) : 0;

    for (size_t p = (size_t)(offset / PAGE); size > 0 && p <= last && p < i->page_count; p++)
        if (i->pages[p].cold)
            return true;
    return false;
}

void inode_warm(struct inode *i, uint64_t offset, size_t size)
{
    size_t last = size > 0 ? (size_t)((offset + size - 1) / PAGE) : 0;

    for (size_t p = (size_t)(offset / PAGE); size > 0 && p <= last && p < i->page_count; p++)
        i->pages[p].cold = false;
}

/* Clean pages leave the page cache; with them goes what could not be written back. */
void inode_evict(struct inode *i)
{
    i->evicted_at = sim_now(i->volume->sim);
    for (size_t p = 0; p < i->page_count; p++) {
        if (i->pages[p].lost)
            page_revert(i, p);
        i->pages[p].cold = i->pages[p].written && !i->pages[p].changed;
    }
}

/* All that was written reaches the disk. */
void inode_commit(struct inode *i)
{
    bool lost = false;

    for (size_t p = i->changed_first; p < i->changed_end; p++) {
        if (i->pages[p].lost)
            lost = true;
        else if (i->pages[p].changed)
            page_is_durable(&i->pages[p]);
    }
    if (!lost)
        i->changed_first = i->changed_end = 0;
    i->durable_size = i->size;
}

/* Writing back fails: the pages count as clean, and the disk has what it had. */
void inode_lose(struct inode *i)
{
    for (size_t p = i->changed_first; p < i->changed_end; p++)
        if (i->pages[p].changed)
            i->pages[p].lost = true;
}

/* ---- names ---- */

static size_t entry_at(const struct entry *v, size_t count, const char *name, bool *found)
{
    size_t low = 0, high = count;

    *found = false;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int c = strcmp(v[mid].name, name);

        if (c == 0) {
            *found = true;
            return mid;
        }
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct inode *dir_find(const struct inode *dir, const char *name)
{
    bool found;
    size_t at = entry_at(dir->now, dir->now_count, name, &found);

    return found ? dir->now[at].inode : NULL;
}

/* Returns what the name was before. */
static struct inode *entry_put(struct entry **v, size_t *count, const char *name, struct inode *i)
{
    bool found;
    size_t at = entry_at(*v, *count, name, &found);
    struct inode *before = found ? (*v)[at].inode : NULL;

    if (!found) {
        *v = xrealloc(*v, (*count + 1) * sizeof **v);
        memmove(*v + at + 1, *v + at, (*count - at) * sizeof **v);
        (*count)++;
        memset(&(*v)[at], 0, sizeof(*v)[at]);
        (void)snprintf((*v)[at].name, sizeof(*v)[at].name, "%s", name);
    }
    (*v)[at].inode = i;
    return before;
}

static struct inode *entry_take(struct entry *v, size_t *count, const char *name)
{
    bool found;
    size_t at = entry_at(v, *count, name, &found);
    struct inode *i;

    if (!found)
        return NULL;
    i = v[at].inode;
    memmove(v + at, v + at + 1, (*count - at - 1) * sizeof *v);
    (*count)--;
    return i;
}

static void journal_add(struct inode *dir, enum change_kind kind, const char *name, const char *to,
                        struct inode *i)
{
    struct change *c;

    dir->journal = xrealloc(dir->journal, (dir->journal_count + 1) * sizeof *dir->journal);
    c = &dir->journal[dir->journal_count++];
    memset(c, 0, sizeof *c);
    c->kind = kind;
    c->inode = i;
    (void)snprintf(c->name, sizeof c->name, "%s", name);
    if (to != NULL)
        (void)snprintf(c->to, sizeof c->to, "%s", to);
    if (i != NULL)
        inode_kept(i, 1);
}

static void durable_put(struct inode *dir, const char *name, struct inode *i)
{
    struct inode *before = entry_put(&dir->durable, &dir->durable_count, name, i);

    inode_kept(i, 1);
    if (before != NULL)
        inode_kept(before, -1);
}

/* The first `n` operations of the journal come into force on the disk. */
static void journal_apply(struct inode *dir, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        struct change *c = &dir->journal[k];
        struct inode *i;

        if (c->kind == CHANGE_LINK) {
            durable_put(dir, c->name, c->inode);
            continue;
        }
        i = entry_take(dir->durable, &dir->durable_count, c->name);
        if (i == NULL)
            continue;
        if (c->kind == CHANGE_RENAME)
            durable_put(dir, c->to, i);
        inode_kept(i, -1);
    }
}

static void journal_clear(struct inode *dir)
{
    for (size_t k = 0; k < dir->journal_count; k++)
        if (dir->journal[k].inode != NULL)
            inode_kept(dir->journal[k].inode, -1);
    dir->journal_count = 0;
}

void dir_commit(struct inode *dir)
{
    journal_apply(dir, dir->journal_count);
    journal_clear(dir);
}

static void link_now(struct inode *dir, const char *name, struct inode *i)
{
    struct inode *before = entry_put(&dir->now, &dir->now_count, name, i);

    inode_live(i, 1);
    if (before != NULL)
        inode_live(before, -1);
}

struct inode *dir_make(struct inode *dir, const char *name, bool is_dir)
{
    struct inode *i = inode_new(dir->volume, is_dir);

    link_now(dir, name, i);
    journal_add(dir, CHANGE_LINK, name, NULL, i);
    return i;
}

void dir_rename(struct inode *dir, const char *name, const char *to)
{
    struct inode *i = entry_take(dir->now, &dir->now_count, name);

    link_now(dir, to, i);
    inode_live(i, -1);
    journal_add(dir, CHANGE_RENAME, name, to, NULL);
}

void dir_remove(struct inode *dir, const char *name)
{
    struct inode *i = entry_take(dir->now, &dir->now_count, name);

    journal_add(dir, CHANGE_UNLINK, name, NULL, NULL);
    inode_live(i, -1);
}

struct inode *volume_walk(struct volume *v, const char *path, char name[VOLUME_NAME_SIZE])
{
    struct inode *dir = v->root;

    name[0] = '\0';
    while (*path == '/')
        path++;
    while (*path != '\0') {
        size_t size = strcspn(path, "/");

        if (name[0] != '\0') {
            dir = dir_find(dir, name);
            if (dir == NULL || !dir->is_dir)
                return NULL;
        }
        CHECK(size < VOLUME_NAME_SIZE);
        memcpy(name, path, size);
        name[size] = '\0';
        path += size;
        while (*path == '/')
            path++;
    }
    return dir;
}

struct inode *volume_find(struct volume *v, const char *path)
{
    char name[VOLUME_NAME_SIZE];
    struct inode *dir = volume_walk(v, path, name);

    if (dir == NULL)
        return NULL;
    return name[0] == '\0' ? dir : dir_find(dir, name);
}

/* ---- reaching the disk ---- */

void volume_commit(struct volume *v)
{
    list_for_each_safe (n, &v->inodes) {
        struct inode *i = list_entry(n, struct inode, node);

        if (!i->is_dir)
            inode_commit(i);
    }
    /* Journals free what they alone kept: one directory at a time, from the top. */
    for (bool again = true; again;) {
        again = false;
        list_for_each (n, &v->inodes) {
            struct inode *i = list_entry(n, struct inode, node);

            if (i->is_dir && i->journal_count > 0) {
                dir_commit(i);
                again = true;
                break;
            }
        }
    }
}

/* ---- life ---- */

void volume_init(struct volume *v, struct sim *s, uint64_t bytes)
{
    *v = (struct volume){.sim = s, .total = bytes};
    list_init(&v->inodes);
    v->root = inode_new(v, true);
    v->root->live = v->root->kept = 1;
}

void volume_deinit(struct volume *v)
{
    while (!list_empty(&v->inodes))
        inode_drop(list_entry(list_first(&v->inodes), struct inode, node));
}

/* ---- power failures ---- */

static void power_fail_file(struct inode *i)
{
    struct sim *s = i->volume->sim;
    uint64_t low = MIN(i->size, i->durable_size), high = MAX(i->size, i->durable_size);
    uint64_t kind = sim_below(s, DICE_DISK, 3);
    /* Most pages of a file share its fate. */
    uint64_t mostly = sim_below(s, DICE_DISK, 3);

    for (size_t p = i->changed_first; p < i->changed_end; p++) {
        uint64_t fate = sim_below(s, DICE_DISK, 2) == 0 ? mostly : sim_below(s, DICE_DISK, 3);

        if (!i->pages[p].changed)
            continue;
        if (i->pages[p].lost || fate == 0)
            page_revert(i, p);
        else if (fate == 1)
            page_is_durable(&i->pages[p]);
        else
            page_tear(i, p);
    }
    i->changed_first = i->changed_end = 0;
    if (kind == 0)
        i->size = i->durable_size;
    else if (kind == 1 && high > low)
        i->size = low + sim_below(s, DICE_DISK, high - low + 1);
    inode_cut(i, i->size);
    inode_commit(i);
    inode_give_back(i, i->size);
    inode_evict(i);
}

/* As many of the unsynced name operations as the seed says, in their order. */
static void power_fail_names(struct inode *dir)
{
    struct sim *s = dir->volume->sim;
    size_t n = (size_t)sim_below(s, DICE_DISK, dir->journal_count + 1);

    if (sim_below(s, DICE_DISK, 3) == 0)
        n = sim_below(s, DICE_DISK, 2) == 0 ? 0 : dir->journal_count;
    journal_apply(dir, n);
    journal_clear(dir);
}

static void mark_live(struct inode *dir)
{
    for (size_t k = 0; k < dir->durable_count; k++) {
        struct inode *i = dir->durable[k].inode;

        i->live++;
        if (i->is_dir)
            mark_live(i);
    }
}

/* Names are what the disk has; what no name reaches any more is gone. */
static void rebuild_names(struct volume *v)
{
    list_for_each (n, &v->inodes)
        list_entry(n, struct inode, node)->live = 0;
    v->root->live = 1;
    mark_live(v->root);
    v->used = 0;
    list_for_each (n, &v->inodes) {
        struct inode *i = list_entry(n, struct inode, node);

        free(i->now);
        i->now = xcalloc(i->durable_count, sizeof *i->now);
        if (i->durable_count > 0)
            memcpy(i->now, i->durable, i->durable_count * sizeof *i->now);
        i->now_count = i->durable_count;
        i->allocated = i->live > 0 && !i->is_dir ? (i->size + PAGE - 1) / PAGE * PAGE : 0;
        v->used += i->allocated;
    }
    list_for_each_safe (n, &v->inodes) {
        struct inode *i = list_entry(n, struct inode, node);

        if (i->live == 0)
            inode_drop(i); /* what it named is not live either */
    }
}

void volume_power_failure(struct volume *v)
{
    list_for_each (n, &v->inodes) {
        struct inode *i = list_entry(n, struct inode, node);

        i->live++; /* nothing is freed while it goes on */
    }
    list_for_each (n, &v->inodes) {
        struct inode *i = list_entry(n, struct inode, node);

        if (i->is_dir)
            power_fail_names(i);
        else
            power_fail_file(i);
    }
    rebuild_names(v);
}

/* ---- bit flips ---- */

struct candidates {
    const char *pattern;
    uint64_t count, chosen;
    struct inode *inode;
    char path[256];
};

static void visit_files(const struct inode *dir, const char *path, struct candidates *c)
{
    for (size_t k = 0; k < dir->durable_count; k++) {
        struct inode *i = dir->durable[k].inode;
        char at[PATH_BYTES_MAX];

        (void)snprintf(at, sizeof at, "%s/%s", path, dir->durable[k].name);
        if (i->is_dir) {
            visit_files(i, at, c);
        } else if (i->durable_size > 0 && (c->pattern == NULL || strstr(at, c->pattern) != NULL) &&
                   c->count++ == c->chosen) {
            c->inode = i;
            (void)snprintf(c->path, sizeof c->path, "%.255s", at);
        }
    }
}

bool volume_flip_bit(struct volume *v, const char *pattern, char what[256])
{
    struct candidates c = {.pattern = pattern, .chosen = UINT64_MAX};
    uint64_t offset;
    size_t page;
    uint8_t bit, *bytes;

    visit_files(v->root, "", &c);
    if (c.count == 0)
        return false;
    c.chosen = sim_below(v->sim, DICE_FAULTS, c.count);
    c.count = 0;
    visit_files(v->root, "", &c);
    offset = sim_below(v->sim, DICE_FAULTS, c.inode->durable_size);
    bit = (uint8_t)(1u << sim_below(v->sim, DICE_FAULTS, 8));
    page = (size_t)(offset / PAGE);
    bytes = page_make(c.inode, page);
    if (c.inode->pages[page].changed && c.inode->pages[page].saved != NULL)
        bytes = c.inode->pages[page].saved;
    bytes[offset % PAGE] ^= bit;
    c.inode->pages[page].written = true;
    c.inode->pages[page].cold = !c.inode->pages[page].changed;
    (void)snprintf(what, 256, "%.200s offset %llu", c.path, (unsigned long long)offset);
    return true;
}
