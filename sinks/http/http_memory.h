/* libcurl's memory. It copies URLs, headers and whole requests, and frees them as they are: so that
 * no tenant's secret stays behind, what it gives back is overwritten first. */
#ifndef RUNSINK_HTTP_MEMORY_H
#define RUNSINK_HTTP_MEMORY_H

/* curl_global_init() with these functions; a CURLcode. Main thread, before anything else uses
 * libcurl: its allocator is chosen once per process. */
int http_memory_init(void);

#endif
