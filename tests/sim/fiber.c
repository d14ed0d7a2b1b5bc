#include "tests/sim/fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "protocol/base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES ((size_t)1 << 20)
#else
#define STACK_BYTES ((size_t)256 << 10)
#endif

#define GUARD_BYTES ((size_t)16 << 10)

/* ---- stacks: untouched pages cost nothing ---- */

static struct stack *stack_take(struct stack_pool *pool)
{
    struct stack *s = pool->free;

    if (s != NULL) {
        pool->free = s->next;
        return s;
    }

    void *p = mmap(NULL, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);

    CHECK(p != MAP_FAILED);
    CHECK(mprotect(p, GUARD_BYTES, PROT_NONE) == 0);
    s = xmalloc(sizeof *s);
    *s = (struct stack){.memory = (uint8_t *)p + GUARD_BYTES, .size = STACK_BYTES};
    return s;
}

static void stack_give(struct stack_pool *pool, struct stack *s)
{
#ifdef WITH_ASAN
    __asan_unpoison_memory_region(s->memory, s->size);
#endif
    s->next = pool->free;
    pool->free = s;
}

void stack_pool_deinit(struct stack_pool *pool)
{
    for (struct stack *s = pool->free, *next; s != NULL; s = next) {
        next = s->next;
        (void)munmap((uint8_t *)s->memory - GUARD_BYTES, s->size + GUARD_BYTES);
        free(s);
    }
    pool->free = NULL;
}

/* ---- the switch ---- */

/* Runs first on a new stack. */
static void context_main(void *arg)
{
    struct context *c = arg;

#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(c->fake, &c->from->bottom, &c->from->size);
#endif
    c->fn(c->arg);
    abort(); /* fn has returned */
}

#if defined(__x86_64__) || defined(__aarch64__)

/* Saves what a call must preserve, stores the stack pointer in *save, and takes up `load`. */
void sim_switch_stack(void **save, void *load);
/* Where a new stack begins: calls the function in one saved register with another as argument. */
void sim_enter_stack(void);

#if defined(__x86_64__)

__asm__(".text\n"
        ".globl sim_switch_stack\n"
        ".type sim_switch_stack,@function\n"
        "sim_switch_stack:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size sim_switch_stack,.-sim_switch_stack\n"
        ".globl sim_enter_stack\n"
        ".type sim_enter_stack,@function\n"
        "sim_enter_stack:\n"
        "    movq %r12, %rdi\n"
        "    jmpq *%r13\n"
        ".size sim_enter_stack,.-sim_enter_stack\n");

/* A return address of 0 at the top ends backtraces. */
static void *first_frame(struct stack *s, struct context *c)
{
    uint64_t *top = (uint64_t *)(void *)((uint8_t *)s->memory + s->size);

    *--top = 0;
    *--top = (uint64_t)(uintptr_t)sim_enter_stack;
    *--top = 0;                                 /* rbp */
    *--top = 0;                                 /* rbx */
    *--top = (uint64_t)(uintptr_t)c;            /* r12 */
    *--top = (uint64_t)(uintptr_t)context_main; /* r13 */
    *--top = 0;
    *--top = 0;
    return top;
}

#else

__asm__(".text\n"
        ".globl sim_switch_stack\n"
        ".type sim_switch_stack,@function\n"
        "sim_switch_stack:\n"
        "    sub sp, sp, #160\n"
        "    stp x19, x20, [sp, #0]\n"
        "    stp x21, x22, [sp, #16]\n"
        "    stp x23, x24, [sp, #32]\n"
        "    stp x25, x26, [sp, #48]\n"
        "    stp x27, x28, [sp, #64]\n"
        "    stp x29, x30, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n"
        "    stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    mov x9, sp\n"
        "    str x9, [x0]\n"
        "    mov sp, x1\n"
        "    ldp x19, x20, [sp, #0]\n"
        "    ldp x21, x22, [sp, #16]\n"
        "    ldp x23, x24, [sp, #32]\n"
        "    ldp x25, x26, [sp, #48]\n"
        "    ldp x27, x28, [sp, #64]\n"
        "    ldp x29, x30, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n"
        "    ldp d10, d11, [sp, #112]\n"
        "    ldp d12, d13, [sp, #128]\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    add sp, sp, #160\n"
        "    ret\n"
        ".size sim_switch_stack,.-sim_switch_stack\n"
        ".globl sim_enter_stack\n"
        ".type sim_enter_stack,@function\n"
        "sim_enter_stack:\n"
        "    mov x0, x19\n"
        "    mov x30, xzr\n"
        "    br x20\n"
        ".size sim_enter_stack,.-sim_enter_stack\n");

static void *first_frame(struct stack *s, struct context *c)
{
    uint64_t *frame = (uint64_t *)(void *)((uint8_t *)s->memory + s->size) - 20;

    for (int i = 0; i < 20; i++)
        frame[i] = 0;
    frame[0] = (uint64_t)(uintptr_t)c;
    frame[1] = (uint64_t)(uintptr_t)context_main;
    frame[11] = (uint64_t)(uintptr_t)sim_enter_stack;
    return frame;
}

#endif

static void switch_stack(struct context *from, struct context *to)
{
    sim_switch_stack(&from->sp, to->sp);
}

#else /* any other machine */

#include <ucontext.h>

static void ucontext_main(unsigned high, unsigned low)
{
    context_main((void *)(uintptr_t)((uint64_t)high << 32 | low));
}

static void *first_frame(struct stack *s, struct context *c)
{
    ucontext_t *u = xcalloc(1, sizeof *u);
    uint64_t p = (uint64_t)(uintptr_t)c;

    CHECK(getcontext(u) == 0);
    u->uc_stack.ss_sp = s->memory;
    u->uc_stack.ss_size = s->size;
    makecontext(u, (void (*)(void))ucontext_main, 2, (unsigned)(p >> 32), (unsigned)p);
    return u;
}

static void switch_stack(struct context *from, struct context *to)
{
    if (from->sp == NULL)
        from->sp = xcalloc(1, sizeof(ucontext_t));
    CHECK(swapcontext(from->sp, to->sp) == 0);
}

#endif

void context_init(struct context *c, struct stack_pool *pool, void (*fn)(void *arg), void *arg)
{
    *c = (struct context){.stack = stack_take(pool), .fn = fn, .arg = arg};
    c->bottom = c->stack->memory;
    c->size = c->stack->size;
    c->sp = first_frame(c->stack, c);
}

void context_switch(struct context *from, struct context *to, bool last)
{
    to->from = from;
#ifdef WITH_ASAN
    __sanitizer_start_switch_fiber(last ? NULL : &from->fake, to->bottom, to->size);
#else
    (void)last;
#endif
    switch_stack(from, to);
#ifdef WITH_ASAN
    /* Back: `from` was set anew by who switched here. */
    __sanitizer_finish_switch_fiber(from->fake, &from->from->bottom, &from->from->size);
#endif
}

void context_deinit(struct context *c, struct stack_pool *pool)
{
    stack_give(pool, c->stack);
    c->stack = NULL;
}
