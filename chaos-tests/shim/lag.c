/* Carries packets between network namespaces late, twice or out of turn: what netem does where a kernel has it.
 *
 * Arguments: NAMESPACE-FILE ADDRESS, a pair a member. In each namespace it opens a TUN device `lag`; routes lead packets into it. On its
 * standard input come whole sets of rules, a line each (`FROM TO delay_us jitter_us reorder% duplicate%`), ended by a line `.`; it
 * answers `ok`, how many packets came twice, and how many overtook others. It ends with its standard input. The draws are of a fixed seed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define MEMBERS 64
#define RULES (MEMBERS * MEMBERS)
#define WAITING 65536 /* packets; more are dropped, as a full queue does */

struct member { int fd; uint32_t address; };
struct rule { uint32_t from, to; int64_t delay, jitter, last; unsigned reorder, duplicate; };
struct packet { int64_t due; uint64_t order; int fd; size_t length; char bytes[]; };

static struct member members[MEMBERS];
static int member_count;
static struct rule rules[RULES], fresh[RULES];
static int rule_count, fresh_count;
static struct packet *heap[WAITING];
static size_t waiting;
static uint64_t arrivals, repeated, reordered, state = 0x9e3779b97f4a7c15u;

static int64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ll + now.tv_nsec / 1000;
}

static uint64_t draw(void) /* xorshift64* (Vigna 2016) */
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545f4914f6cdd1du;
}

static int is_sooner(const struct packet *a, const struct packet *b)
{
	return a->due != b->due ? a->due < b->due : a->order < b->order;
}

static void push(struct packet *packet)
{
	size_t at = waiting++;
	for (; at > 0 && is_sooner(packet, heap[(at - 1) / 2]); at = (at - 1) / 2)
		heap[at] = heap[(at - 1) / 2];
	heap[at] = packet;
}

static struct packet *pop(void)
{
	struct packet *first = heap[0], *last = heap[--waiting];
	size_t at = 0, child;
	while ((child = 2 * at + 1) < waiting) {
		if (child + 1 < waiting && is_sooner(heap[child + 1], heap[child]))
			child++;
		if (!is_sooner(heap[child], last))
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = last;
	return first;
}

static void enqueue(int fd, const char *bytes, size_t length, int64_t due)
{
	struct packet *packet = waiting < WAITING ? malloc(sizeof *packet + length) : NULL;
	if (!packet)
		return;
	packet->due = due;
	packet->order = arrivals++;
	packet->fd = fd;
	packet->length = length;
	memcpy(packet->bytes, bytes, length);
	push(packet);
}

static void carry(const char *bytes, size_t length)
{
	uint32_t from, to;
	if (length < 20 || bytes[0] >> 4 != 4)
		return;
	memcpy(&from, bytes + 12, 4);
	memcpy(&to, bytes + 16, 4);
	struct member *member = members;
	while (member < members + member_count && member->address != to)
		member++;
	if (member == members + member_count)
		return;
	struct rule *rule = rules;
	while (rule < rules + rule_count && (rule->from != from || rule->to != to))
		rule++;
	int64_t due = now_us();
	int is_ruled = rule < rules + rule_count;
	if (is_ruled && draw() % 100 < rule->reorder) {
		reordered++;
	} else if (is_ruled) {
		int64_t jitter = rule->jitter ? (int64_t)(draw() % (2 * rule->jitter + 1)) - rule->jitter : 0;
		int64_t late = rule->delay + jitter;
		due += late > 0 ? late : 0;
		due = due > rule->last ? due : rule->last;
		rule->last = due;
	}
	enqueue(member->fd, bytes, length, due);
	if (is_ruled && draw() % 100 < rule->duplicate) {
		repeated++;
		enqueue(member->fd, bytes, length, due);
	}
}

static void say_ok(void)
{
	printf("ok %llu %llu\n", (unsigned long long)repeated, (unsigned long long)reordered);
	fflush(stdout);
}

static void rule_of(const char *line)
{
	char from[64], to[64];
	struct rule *rule = &fresh[fresh_count];
	if (line[0] == '.') {
		memcpy(rules, fresh, sizeof fresh);
		rule_count = fresh_count;
		fresh_count = 0;
		say_ok();
		return;
	}
	long long delay, jitter;
	if (fresh_count == RULES || sscanf(line, "%63s %63s %lld %lld %u %u", from, to, &delay, &jitter, &rule->reorder, &rule->duplicate) != 6
	    || inet_pton(AF_INET, from, &rule->from) != 1 || inet_pton(AF_INET, to, &rule->to) != 1) {
		fprintf(stderr, "lag: cannot read the rule %s", line);
		exit(1);
	}
	rule->delay = delay;
	rule->jitter = jitter;
	rule->last = 0;
	fresh_count++;
}

static void listen_to_rules(void)
{
	static char text[1 << 16];
	static size_t length;
	ssize_t got = read(0, text + length, sizeof text - 1 - length);
	if (got <= 0)
		exit(0);
	length += got;
	text[length] = 0;
	char *line = text, *end;
	while ((end = strchr(line, '\n'))) {
		*end = 0;
		rule_of(line);
		line = end + 1;
	}
	length -= line - text;
	memmove(text, line, length);
}

static void open_device(const char *namespace, const char *address)
{
	struct ifreq wish = { .ifr_name = "lag", .ifr_flags = IFF_TUN | IFF_NO_PI };
	int file = open(namespace, O_RDONLY | O_CLOEXEC);
	if (file < 0 || setns(file, CLONE_NEWNET) != 0) {
		perror(namespace);
		exit(1);
	}
	close(file);
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &wish) != 0 || member_count == MEMBERS
	    || inet_pton(AF_INET, address, &members[member_count].address) != 1) {
		perror("/dev/net/tun");
		exit(1);
	}
	members[member_count++].fd = fd;
}

int main(int count, char **arguments)
{
	static char bytes[1 << 16];
	struct pollfd polls[MEMBERS + 1];
	for (int at = 1; at + 1 < count; at += 2)
		open_device(arguments[at], arguments[at + 1]);
	say_ok();
	for (int at = 0; at < member_count; at++)
		polls[at] = (struct pollfd){ .fd = members[at].fd, .events = POLLIN };
	polls[member_count] = (struct pollfd){ .fd = 0, .events = POLLIN };
	for (;;) {
		int64_t wait = waiting ? heap[0]->due - now_us() : 1000000;
		struct timespec nap = { 0, wait > 0 ? (wait < 999999 ? wait : 999999) * 1000 : 0 };
		if (ppoll(polls, member_count + 1, &nap, NULL) < 0 && errno != EINTR)
			return 1;
		if (polls[member_count].revents)
			listen_to_rules();
		for (int at = 0; at < member_count; at++) {
			ssize_t got;
			while (polls[at].revents && (got = read(polls[at].fd, bytes, sizeof bytes)) > 0)
				carry(bytes, got);
		}
		while (waiting && heap[0]->due <= now_us()) {
			struct packet *packet = pop();
			/* A receiver that is full or down loses it, as a wire does. */
			ssize_t sent = write(packet->fd, packet->bytes, packet->length);
			(void)sent;
			free(packet);
		}
	}
}
