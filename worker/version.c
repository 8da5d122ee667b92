#include "worker/version.h"

#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <isa-l.h>
#include <microhttpd.h>
#include <openssl/crypto.h>
#include <zstd.h>

#include "commit.h"
#include "worker/kafka/client.h"

void version_print(FILE *f) {
    fprintf(f, "runsink %s (commit %s)\n", RUNSINK_VERSION, RUNSINK_COMMIT);
    fprintf(f, "librdkafka %s\n%s\n", client_version(), curl_version());
    fprintf(f, "%s\ncJSON %s\nzstd %s\nlibmicrohttpd %s\n", OpenSSL_version(OPENSSL_VERSION),
            cJSON_Version(), ZSTD_versionString(), MHD_get_version());
    fprintf(f, "ISA-L %d.%d.%d (when it was built)\n", ISAL_MAJOR_VERSION, ISAL_MINOR_VERSION,
            ISAL_PATCH_VERSION);
#ifdef RUNSINK_LIBS3
    fputs("libs3, for stores that know Signature Version 2 alone\n", f);
#else
    fputs("without libs3\n", f);
#endif
}
