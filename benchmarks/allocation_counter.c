/* Counts the bytes that a process holds of malloc, and the most it held since the last reset.
 * Put in front of glibc with LD_PRELOAD; read through counted_live, counted_peak and counted_reset. */
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static atomic_long live, peak;

static void add(void *made) {
    if (!made) return;
    long bytes = (long)malloc_usable_size(made);
    long now = atomic_fetch_add(&live, bytes) + bytes;
    long most = atomic_load(&peak);
    while (now > most && !atomic_compare_exchange_weak(&peak, &most, now)) {}
}

static void sub(void *gone) {
    if (gone) atomic_fetch_sub(&live, (long)malloc_usable_size(gone));
}

void *malloc(size_t bytes) {
    void *made = __libc_malloc(bytes);
    add(made);
    return made;
}

void *calloc(size_t count, size_t bytes) {
    void *made = __libc_calloc(count, bytes);
    add(made);
    return made;
}

void *realloc(void *old, size_t bytes) {
    sub(old);
    void *made = __libc_realloc(old, bytes);
    add(made ? made : (bytes ? old : NULL));
    return made;
}

void *memalign(size_t align, size_t bytes) {
    void *made = __libc_memalign(align, bytes);
    add(made);
    return made;
}

void *aligned_alloc(size_t align, size_t bytes) { return memalign(align, bytes); }

int posix_memalign(void **out, size_t align, size_t bytes) {
    void *made = memalign(align, bytes);
    if (!made) return ENOMEM;
    *out = made;
    return 0;
}

void free(void *gone) {
    sub(gone);
    __libc_free(gone);
}

long counted_live(void) { return atomic_load(&live); }
long counted_peak(void) { return atomic_load(&peak); }
void counted_reset(void) { atomic_store(&peak, atomic_load(&live)); }
