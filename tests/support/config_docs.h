/* tests/support/config_docs.h -- docs/CONFIG.md, made from the tables of keys.
 *
 * The unit test compares the file with this; `config_test --docs > docs/CONFIG.md` writes it.
 */
#ifndef FLUXMQ_TESTS_CONFIG_DOCS_H
#define FLUXMQ_TESTS_CONFIG_DOCS_H

#include <stdio.h>

void config_docs_write(FILE *out);

#endif
