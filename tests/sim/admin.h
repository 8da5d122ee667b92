/* The admin server's part: lanes are asked for what an operator sees, and what they tell is judged.
 * Main thread of a process. */
#ifndef RUNSINK_SIM_ADMIN_H
#define RUNSINK_SIM_ADMIN_H

struct lane;

void admin_ask(const struct lane *);
/* What it has told since it was asked, if it has. */
void admin_take(const struct lane *);

#endif
