/* For LD_PRELOAD: names that end in ".invalid" without asking a name server. While the file named
 * by NAMES_RESOLVE exists they lead to 127.0.0.1; otherwise they don't exist, and a name that
 * starts with "slow" takes five seconds to say so, as one whose server is down does. */
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int getaddrinfo_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

#define SLOW_S 5

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **ret) {
    static const char ending[] = ".invalid";
    getaddrinfo_fn *real;
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    size_t n = name ? strlen(name) : 0, m = sizeof ending - 1;
    if (n < m || strcmp(name + n - m, ending) != 0) return real(name, service, hints, ret);
    const char *file = getenv("NAMES_RESOLVE");
    if (file && access(file, F_OK) == 0) return real("127.0.0.1", service, hints, ret);
    if (strncmp(name, "slow", 4) == 0) sleep(SLOW_S);
    return EAI_NONAME;
}
