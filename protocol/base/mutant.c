#include "protocol/base/mutant.h"

#ifdef FLUXMQ_MUTANTS
int mutant_chosen;
#endif
