#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "worker/ledger/key.h"
#include "worker/tools/command.h"

int command_keygen(struct config *config, int argc, char **argv) {
    (void)config;
    if (argc != 2 || argv[1][0] == '-')
        return command_usage("keygen", "expected the file to write the private key to");
    size_t n = strlen(argv[1]) + sizeof ".pub";
    char *public = xmalloc(n);
    struct buf err;
    buf_init(&err, 8192);
    snprintf(public, n, "%s.pub", argv[1]);
    bool ok = ledger_keygen(argv[1], public, &err);
    if (!ok) command_error("keygen", &err);
    buf_free(&err);
    free(public);
    return ok ? EX_OK : EX_CANTCREAT;
}
