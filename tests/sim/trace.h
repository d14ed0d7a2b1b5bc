/* tests/sim/trace.h -- what happened: a hash of all of it, and the last events as text.
 *
 * An event is a format and its arguments. The arguments go into the hash at once, by value
 * (strings by their bytes); text is made only when somebody looks. Formats may use the integer
 * conversions, %c, %s and %.*s; never %p or %f, which differ from run to run.
 */
#ifndef FLUXMQ_TESTS_SIM_TRACE_H
#define FLUXMQ_TESTS_SIM_TRACE_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

struct trace;

struct trace *trace_new(void);
void trace_free(struct trace *t);
/* `who` outlives the trace. */
void trace_add(struct trace *t, uint64_t now_ns, const char *who, const char *format, va_list ap);
void trace_bytes(struct trace *t, const void *p, size_t size);
void trace_number(struct trace *t, uint64_t v);
uint64_t trace_hash(const struct trace *t);
/* The newest event, or the last ones, oldest first. */
void trace_print_newest(const struct trace *t, FILE *to);
void trace_print_last(const struct trace *t, FILE *to);

#endif
