/*
 * calico, calico-ipam: what a container runtime starts. One gRPC call to the node agent, the answer printed, done.
 *
 * Theory of operation
 *   connect to the agent's UNIX socket; nobody there -> exec the Python fallback, stdin untouched
 *   send CNI_* and stdin as one unary call; print stdout and stderr of the reply, exit with its code
 *   the agent says that it did not take the call (GOAWAY, REFUSED_STREAM, UNIMPLEMENTED, FAILED_PRECONDITION)
 *       -> exec the fallback, stdin replayed from memory
 *   the agent vanishes, or is silent, after it may have begun -> for ADD an error (code 11, the runtime cleans up by
 *       DEL); every other command is idempotent -> exec the fallback
 *   together no more than 90 s
 *
 * Started as `calico` (also `calico-impl`, a name that DC/OS has) or `calico-ipam`; arguments (-v, -t) go to the
 * fallback. Uses no environment but CNI_*, PATH and CALICO_NODE_SOCKET. No locale, no HOME, no library at run time. The field numbers are those of rpc/node.proto.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef CALICO_NODE_SOCKET
#define CALICO_NODE_SOCKET "/run/calico/node.sock"
#endif
#ifndef CALICO_FALLBACK
#define CALICO_FALLBACK "calico-cni-fallback"
#endif
#define API_VERSION 1
#define DIRECTORY "CALICO_CALLER_DIRECTORY"
#define LARGEST_STDIN ((size_t)8 << 20)
#define LARGEST_REPLY ((size_t)16 << 20)
/* No call takes more than 90 s, whatever state the agent is in. The agent gives up after 60 s, and undoes for 20 s. */
#define LONGEST_CALL_S 90
#ifndef CALL_TIMEOUT_MS
#define CALL_TIMEOUT_MS 86000
#endif
#define GRPC_TIMEOUT "84S"
/* What may be repeated is left to the fallback while there is time for it: its own limit, and 20 s for an undo. */
#ifndef REPEATABLE_TIMEOUT_MS
#define REPEATABLE_TIMEOUT_MS 45000
#endif
#define REPEATABLE_GRPC_TIMEOUT "44S"
#define LINGER_S 20
#define GRPC_DEADLINE_EXCEEDED 4
#define GRPC_UNIMPLEMENTED 12
#define GRPC_FAILED_PRECONDITION 9

extern char **environ;

struct buffer {
    uint8_t *bytes;
    size_t length, capacity;
};

struct call {
    struct buffer request, reply;
    size_t sent;
    int32_t stream;
    int status;       /* grpc-status, -1 = none seen */
    char message[256]; /* grpc-message */
    bool closed, refused;
};

static const char *program = "calico";
static struct buffer stdin_bytes;
static bool stdin_was_read, may_repeat;
static int64_t started_ms;

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void put_json_text(const char *text) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
}

/* An error object on stdout, as the runtime expects it, and the end. */
static _Noreturn void fail(int code, const char *message, const char *details) {
    printf("{\n    \"code\": %d,\n    \"msg\": \"", code);
    put_json_text(message);
    printf("\",\n    \"details\": \"");
    put_json_text(details);
    printf("\"\n}\n");
    fflush(stdout);
    _exit(1);
}

static void append(struct buffer *to, const void *bytes, size_t length) {
    if (to->length + length > to->capacity) {
        size_t capacity = (to->length + length) * 2 + 256;
        uint8_t *grown = realloc(to->bytes, capacity);
        if (grown == NULL)
            fail(999, "out of memory", program);
        to->bytes = grown;
        to->capacity = capacity;
    }
    if (length)
        memcpy(to->bytes + to->length, bytes, length);
    to->length += length;
}

/* --- the fallback ------------------------------------------------------------------------------------------------- */

static void replay_stdin(void) {
    if (!stdin_was_read)
        return;
    int fd = memfd_create("stdin", 0);
    size_t done = 0;
    while (fd >= 0 && done < stdin_bytes.length) {
        ssize_t n = write(fd, stdin_bytes.bytes + done, stdin_bytes.length - done);
        if (n < 0 && errno != EINTR)
            break;
        done += n > 0 ? (size_t)n : 0;
    }
    if (fd < 0 || done < stdin_bytes.length || lseek(fd, 0, SEEK_SET) != 0 || dup2(fd, 0) != 0)
        fail(5, "cannot hand stdin to the fallback", strerror(errno));
}

/* Become the Python implementation, which does the same without an agent. It stands beside this program. */
static _Noreturn void run_fallback(int argc, char **argv) {
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof CALICO_FALLBACK - 1);
    if (n <= 0)
        fail(999, "cannot find the fallback program", "/proc/self/exe cannot be read");
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    strcpy(slash != NULL ? slash + 1 : path, CALICO_FALLBACK);
    char **arguments = calloc((size_t)argc + 5, sizeof *arguments), seconds[24];
    if (arguments == NULL)
        fail(999, "out of memory", program);
    int count = 0;
    arguments[count++] = path;
    arguments[count++] = (char *)"--program";
    arguments[count++] = (char *)program;
    int64_t waited_s = started_ms ? (now_ms() - started_ms) / 1000 : 0;
    if (waited_s > 0) { /* for the agent */
        snprintf(seconds, sizeof seconds, "%d", (int)(LONGEST_CALL_S - LINGER_S - waited_s));
        arguments[count++] = (char *)"--seconds";
        arguments[count++] = seconds;
    }
    for (int i = 1; i < argc; i++)
        arguments[count++] = argv[i];
    for (char **entry = environ; *entry != NULL;) { /* nothing of the caller's Python may leak in */
        char *name = strncmp(*entry, "PYTHON", 6) == 0 ? strndup(*entry, strcspn(*entry, "=")) : NULL;
        if (name == NULL || unsetenv(name) != 0)
            entry++;
        free(name);
    }
    replay_stdin();
    execv(path, arguments);
    fail(999, "no node agent answers, and the fallback program cannot be run: start calico-felix, or install it", path);
}

/* --- the request -------------------------------------------------------------------------------------------------- */

static void put_varint(struct buffer *to, uint64_t value) {
    do {
        uint8_t byte = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        append(to, &byte, 1);
        value >>= 7;
    } while (value);
}

static void put_bytes(struct buffer *to, unsigned field, const void *bytes, size_t length) {
    put_varint(to, field << 3 | 2);
    put_varint(to, length);
    append(to, bytes, length);
}

static void read_stdin(void) {
    uint8_t chunk[65536];
    stdin_was_read = true;
    for (;;) {
        ssize_t n = read(0, chunk, sizeof chunk);
        if (n == 0)
            return;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            fail(5, "error reading from stdin", strerror(errno));
        append(&stdin_bytes, chunk, (size_t)n);
        if (stdin_bytes.length > LARGEST_STDIN)
            fail(5, "error reading from stdin", "the network configuration is larger than 8 MiB");
    }
}

static void put_variable(struct buffer *body, const char *name, size_t name_length, const char *value) {
    static struct buffer entry;
    entry.length = 0;
    put_bytes(&entry, 1, name, name_length);
    put_bytes(&entry, 2, value, strlen(value));
    put_bytes(body, 1, entry.bytes, entry.length);
}

/* A relative `log_file_path` is the caller's. Only ASCII: what is not UTF-8 would spoil the whole call. */
static void put_directory(struct buffer *body) {
    char *directory = getcwd(NULL, 0);
    bool usable = directory != NULL;
    for (const char *at = directory; usable && *at != '\0'; at++)
        usable = (unsigned char)*at < 0x80;
    if (usable)
        put_variable(body, DIRECTORY, strlen(DIRECTORY), directory);
    free(directory);
}

static void build_request(struct call *call, const char *command) {
    if (command[0] != '\0' && strcmp(command, "VERSION") != 0)
        read_stdin();
    struct buffer body = {0};
    for (char **variable = environ; *variable != NULL; variable++) {
        const char *equals = strchr(*variable, '=');
        if (equals == NULL || (strncmp(*variable, "CNI_", 4) != 0 && strncmp(*variable, "PATH=", 5) != 0))
            continue;
        put_variable(&body, *variable, (size_t)(equals - *variable), equals + 1);
    }
    put_directory(&body);
    put_bytes(&body, 2, stdin_bytes.bytes, stdin_bytes.length);
    put_bytes(&body, 3, program, strlen(program));
    put_varint(&body, 4 << 3);
    put_varint(&body, API_VERSION);
    uint8_t head[5] = {0, (uint8_t)(body.length >> 24), (uint8_t)(body.length >> 16), (uint8_t)(body.length >> 8),
                       (uint8_t)body.length};
    append(&call->request, head, sizeof head);
    append(&call->request, body.bytes, body.length);
}

/* --- HTTP/2 ------------------------------------------------------------------------------------------------------- */

static ssize_t give_request(nghttp2_session *session, int32_t stream, uint8_t *to, size_t room, uint32_t *flags,
                            nghttp2_data_source *source, void *user) {
    struct call *call = user;
    size_t left = call->request.length - call->sent, n = left < room ? left : room;
    (void)session, (void)stream, (void)source;
    memcpy(to, call->request.bytes + call->sent, n);
    call->sent += n;
    if (call->sent == call->request.length)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *bytes, size_t length,
                   void *user) {
    struct call *call = user;
    (void)session, (void)flags, (void)stream;
    if (call->reply.length + length > LARGEST_REPLY)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    append(&call->reply, bytes, length);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t value_length, uint8_t flags, void *user) {
    struct call *call = user;
    (void)session, (void)frame, (void)flags;
    if (name_length == 11 && memcmp(name, "grpc-status", 11) == 0 && value_length > 0 && value_length < 4) {
        char digits[4] = {0};
        memcpy(digits, value, value_length);
        call->status = atoi(digits);
    } else if (name_length == 12 && memcmp(name, "grpc-message", 12) == 0) {
        snprintf(call->message, sizeof call->message, "%.*s", (int)value_length, (const char *)value);
    }
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct call *call = user;
    (void)session;
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.last_stream_id < call->stream)
        call->refused = call->closed = true;
    return 0;
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t error, void *user) {
    struct call *call = user;
    (void)session, (void)stream;
    call->closed = true;
    call->refused = call->refused || error == NGHTTP2_REFUSED_STREAM;
    return 0;
}

static int connect_agent(void) {
    const char *path = getenv("CALICO_NODE_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path == NULL || path[0] == '\0')
        path = CALICO_NODE_SOCKET;
    if (strlen(path) >= sizeof address.sun_path)
        fail(4, "the path in CALICO_NODE_SOCKET is too long", path);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    for (int tries = 0; fd >= 0; tries++) {
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return fd;
        if (errno != EAGAIN || tries == 100) { /* EAGAIN: many calls at once, the agent's queue is full */
            close(fd);
            return -1;
        }
        poll(NULL, 0, 20);
    }
    return -1;
}

/* Move bytes until the stream is closed; false when the connection or the time is over before that. */
static bool exchange(nghttp2_session *session, struct call *call, int fd) {
    int64_t deadline = started_ms + (may_repeat ? REPEATABLE_TIMEOUT_MS : CALL_TIMEOUT_MS);
    const uint8_t *out = NULL;
    ssize_t out_length = 0;
    uint8_t in[16384];
    while (!call->closed) {
        if (out_length == 0 && (out_length = nghttp2_session_mem_send(session, &out)) < 0)
            return false;
        struct pollfd waiting = {.fd = fd, .events = (short)(POLLIN | (out_length > 0 ? POLLOUT : 0))};
        int64_t left = deadline - now_ms();
        int ready = poll(&waiting, 1, left > 0 ? (int)left : 0);
        if (ready == 0 || (ready < 0 && errno != EINTR))
            return false;
        if (ready > 0 && (waiting.revents & POLLOUT)) {
            ssize_t n = send(fd, out, (size_t)out_length, MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN && errno != EINTR)
                out_length = 0; /* an answer may be waiting nevertheless */
            if (n > 0) {
                out += n;
                out_length -= n;
            }
        }
        if (ready > 0 && (waiting.revents & (POLLIN | POLLHUP | POLLERR))) {
            ssize_t n = recv(fd, in, sizeof in, 0);
            if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
                return false;
            if (n > 0 && nghttp2_session_mem_recv(session, in, (size_t)n) < 0)
                return false;
        }
    }
    return true;
}

#define HEADER(name, value)                                                                                            \
    {(uint8_t *)(name), (uint8_t *)(value), sizeof(name) - 1, sizeof(value) - 1, NGHTTP2_NV_FLAG_NONE}

static bool make_call(struct call *call, int fd) {
    nghttp2_session_callbacks *callbacks;
    nghttp2_session *session;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    if (nghttp2_session_client_new(&session, callbacks, call) != 0)
        fail(999, "out of memory", program);
    nghttp2_settings_entry window = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20};
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, &window, 1);
    nghttp2_nv headers[] = {
        HEADER(":method", "POST"), HEADER(":scheme", "http"), HEADER(":path", "/calico.node.v1.Workloads/Cni"),
        HEADER(":authority", "localhost"), HEADER("te", "trailers"), HEADER("content-type", "application/grpc"),
        HEADER("user-agent", "calico-cni"), HEADER("grpc-timeout", GRPC_TIMEOUT),
    };
    if (may_repeat)
        headers[sizeof headers / sizeof *headers - 1] = (nghttp2_nv)HEADER("grpc-timeout", REPEATABLE_GRPC_TIMEOUT);
    nghttp2_data_provider provider = {.read_callback = give_request};
    call->stream = nghttp2_submit_request(session, NULL, headers, sizeof headers / sizeof *headers, &provider, NULL);
    return call->stream > 0 && exchange(session, call, fd);
}

/* --- the reply ---------------------------------------------------------------------------------------------------- */

static bool get_varint(const uint8_t **at, const uint8_t *end, uint64_t *value) {
    *value = 0;
    for (unsigned shift = 0; *at < end && shift < 64; shift += 7) {
        uint8_t byte = *(*at)++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

static void write_all(int fd, const uint8_t *bytes, size_t length) {
    while (length > 0) {
        ssize_t n = write(fd, bytes, length);
        if (n < 0 && errno != EINTR)
            return;
        bytes += n > 0 ? n : 0;
        length -= n > 0 ? (size_t)n : 0;
    }
}

/* Print a CniReply and exit as it says; returns when it cannot be read. */
static void finish(const struct buffer *reply) {
    const uint8_t *at = reply->bytes + 5, *end = reply->bytes + reply->length, *text[4] = {0};
    size_t length[4] = {0};
    uint64_t exit_code = 0, tag, value;
    if (reply->length < 5 || reply->bytes[0] != 0)
        return;
    while (at < end) {
        if (!get_varint(&at, end, &tag) || !get_varint(&at, end, &value))
            return;
        if (tag == (1 << 3)) {
            exit_code = value;
        } else if ((tag & 7) == 2) {
            if (value > (uint64_t)(end - at))
                return;
            if (tag >> 3 < 4)
                text[tag >> 3] = at, length[tag >> 3] = (size_t)value;
            at += value;
        } else if ((tag & 7) != 0) {
            return;
        }
    }
    write_all(2, text[3], length[3]);
    write_all(1, text[2], length[2]);
    _exit((int)(exit_code & 0xff));
}

int main(int argc, char **argv) {
    const char *command = getenv("CNI_COMMAND");
    const char *name = argc > 0 ? strrchr(argv[0], '/') : NULL;
    name = name != NULL ? name + 1 : argc > 0 ? argv[0] : "";
    if (strcmp(name, "calico-ipam") == 0) {
        program = "calico-ipam";
    } else if (strcmp(name, "calico") != 0 && strcmp(name, "calico-impl") != 0) {
        fprintf(stderr, "Unknown binary name: %s\n", name);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    command = command != NULL ? command : "";
    int fd = argc > 1 ? -1 : connect_agent();
    if (fd < 0)
        run_fallback(argc, argv);
    struct call call = {.status = -1};
    build_request(&call, command);
    may_repeat = strcmp(command, "ADD") != 0;
    started_ms = now_ms();
    bool answered = make_call(&call, fd);
    close(fd);
    if (answered && call.status == 0)
        finish(&call.reply);
    if (call.refused || call.status == GRPC_UNIMPLEMENTED || call.status == GRPC_FAILED_PRECONDITION)
        run_fallback(argc, argv);
    if (may_repeat && (call.status < 0 || call.status == GRPC_DEADLINE_EXCEEDED))
        run_fallback(argc, argv);
    fail(11, "the node agent went away, or failed, during the call: try again later",
         call.message[0] ? call.message : "whether the container was attached is unknown: DEL it first");
}
