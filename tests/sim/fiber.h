/* tests/sim/fiber.h -- stacks, and the switch from one to another.
 *
 * The lowest layer of the simulator: it knows neither time nor processes (sim.h has those). A
 * stack is mapped with a guard page below it and kept for the next fiber when its own has ended.
 * The switch is a few instructions (x86-64, aarch64), elsewhere ucontext; AddressSanitizer is
 * told of each.
 */
#ifndef FLUXMQ_TESTS_SIM_FIBER_H
#define FLUXMQ_TESTS_SIM_FIBER_H

#include <stdbool.h>
#include <stddef.h>

struct stack {
    struct stack *next; /* in the pool */
    void *memory;       /* above the guard page */
    size_t size;
};

struct stack_pool {
    struct stack *free;
};

struct context {
    void *sp;
    struct stack *stack; /* NULL: the thread's own */
    void *fake;          /* AddressSanitizer's */
    const void *bottom;  /* of the thread's own stack, learnt at the first switch from it */
    size_t size;
    void (*fn)(void *arg);
    void *arg;
    struct context *from; /* who switched here last */
};

/* `fn` must not return: it switches away for the last time. */
void context_init(struct context *c, struct stack_pool *pool, void (*fn)(void *arg), void *arg);
/* Goes on in `to`; returns when somebody switches back to `from`. `last`: nobody will. */
void context_switch(struct context *from, struct context *to, bool last);
/* Gives the stack of a context that is over back to the pool. Not from that stack. */
void context_deinit(struct context *c, struct stack_pool *pool);
void stack_pool_deinit(struct stack_pool *pool);

#endif
