/* What a client reads of HTTP: the status, Content-Length, and when a reply is over. */
#ifndef REPLY_H
#define REPLY_H
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Of a reply's head. Bytes; more is an error. */
#define HEAD_MAX 4096

struct reply {
    char head[HEAD_MAX + 1];
    size_t head_len;
    int in_body;
    unsigned long long left; /* of the body, bytes */
};

enum reply_state { REPLY_MORE, REPLY_DONE, REPLY_BAD };

static void reply_begin(struct reply *r)
{
    r->head_len = 0;
    r->in_body = 0;
    r->left = 0;
}

/* One reply at a time: what comes behind it is bad, for nobody asked for it. */
static enum reply_state reply_feed(struct reply *r, const char *bytes, size_t n)
{
    if (!r->in_body) {
        size_t room = HEAD_MAX - r->head_len, take = n < room ? n : room;
        memcpy(r->head + r->head_len, bytes, take);
        size_t before = r->head_len;
        r->head_len += take;
        r->head[r->head_len] = 0;
        char *end = strstr(r->head, "\r\n\r\n");
        if (!end)
            return take < n || r->head_len == HEAD_MAX ? REPLY_BAD : REPLY_MORE;
        end += 4;
        if (strncmp(r->head, "HTTP/1.1 200", 12))
            return REPLY_BAD;
        *(end - 1) = 0;
        char *length = strcasestr(r->head, "\r\ncontent-length:");
        if (!length)
            return REPLY_BAD;
        r->left = strtoull(length + 17, NULL, 10);
        r->in_body = 1;
        n -= (size_t)(end - r->head) - before;
    }
    if (n > r->left)
        return REPLY_BAD;
    r->left -= n;
    return r->left ? REPLY_MORE : REPLY_DONE;
}
#endif
