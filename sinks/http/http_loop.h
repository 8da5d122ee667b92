/* What libcurl's transfers wait for: their sockets in an epoll set, and one timer. Costs what
 * happens, not what is open: curl_multi_perform() looks at every transfer under way each time, with
 * a poll(2) of its own for each. Lane's thread. */
#ifndef RUNSINK_HTTP_LOOP_H
#define RUNSINK_HTTP_LOOP_H

#include <curl/curl.h>

struct http_loop;

/* Takes the multi handle's socket and timer callbacks. NULL with errno when the kernel refuses. */
struct http_loop *http_loop_new(CURLM *);
void http_loop_free(struct http_loop *); /* after curl_multi_cleanup() */
/* A connection's socket was opened; is about to be closed. */
void http_loop_opened(struct http_loop *, int fd);
void http_loop_closing(struct http_loop *, int fd);
/* http_loop_wait() also returns when fd is readable; it stays so until somebody reads it. fd stays
 * open as long as the loop waits. */
void http_loop_wake_by(struct http_loop *, int fd);
/* Returns when something is ready, the timer is due or timeout_ms are over. */
void http_loop_wait(struct http_loop *, int timeout_ms);
/* Hands libcurl what the last wait found, and its timer when due. */
CURLMcode http_loop_run(struct http_loop *);

#endif
