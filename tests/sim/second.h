/* A second opinion: what `runsink verify` says of the ledger, once all is settled. Its judgement is
 * the program's own; the judge's reader of the ledger shares nothing with it. */
#ifndef RUNSINK_SIM_SECOND_H
#define RUNSINK_SIM_SECOND_H

void second_opinion(void);

#endif
