/*
 * count: a guest program whose lines prove that nothing of its past was lost.
 *
 *     count LINES [ROUNDS [PAUSE_MS [MIB]]]
 *
 * It prints "# count ROUNDS MIB", then for i = 1, 2, ... LINES the line
 *
 *     i SHA-256(state after round i)
 *
 * and "# done" at the end. The state is a chain: each line's hash goes into
 * the next one's work, together with MIB mebibytes of memory that are read and
 * written at pseudo-random places ROUNDS times a line, SSE2 and x87
 * accumulators, and what child processes, pipes, fresh mappings and files hand
 * back. One lost or repeated store, one wrong rounding, and every line from
 * there on is another.
 *
 * Its lines depend on ROUNDS and MIB alone: not on time, process ids or the
 * machine. Run on any x86-64 host it prints what it must print in the guest.
 * What does depend on time is checked and not printed: clocks must not go
 * back, and a signal handler that interrupts the work at places of the timer's
 * choice keeps a block of memory whose sum must stay right. A failed check
 * prints a line "# broken: ..." and ends the program with status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sha256.h"

/* How often the costlier works are done, in lines. */
enum { FORK_EVERY = 16, FILE_EVERY = 8, MAPPING_EVERY = 4 };

enum { PAGE = 4096, TICK_MS = 3, GUARD_WORDS = 64 };

struct state {
	uint64_t *memory;
	size_t words;
	uint64_t random;
	double sse;
	long double x87;
	uint8_t hash[SHA256_BYTES];
};

/* What the signal handler works on; its words always add up to guard_sum. */
static volatile uint64_t guard[GUARD_WORDS];
static uint64_t guard_sum;
static volatile uint64_t ticks;

static void emit(const char *line, size_t length)
{
	while (length > 0) {
		ssize_t n = write(STDOUT_FILENO, line, length);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(2);
		line += n;
		length -= (size_t)n;
	}
}

static __attribute__((format(printf, 1, 2))) void print(const char *format, ...)
{
	char line[256];
	va_list arguments;

	va_start(arguments, format);
	int n = vsnprintf(line, sizeof line, format, arguments);
	va_end(arguments);
	emit(line, (size_t)n);
}

static void check(int good, const char *what)
{
	if (good)
		return;
	print("# broken: %s (errno %d)\n", what, errno);
	_exit(1);
}

/* xorshift64*: small, and every bit of the state matters. */
static uint64_t next(uint64_t *random)
{
	uint64_t x = *random;
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*random = x;
	return x * UINT64_C(0x2545F4914F6CDD1D);
}

/* Moves an amount between two words of the guard block: the sum stays. */
static void on_tick(int signal)
{
	(void)signal;
	uint64_t n = ticks++;
	uint64_t amount = n * UINT64_C(0x9E3779B97F4A7C15);
	guard[n % GUARD_WORDS] += amount;
	guard[(n * 7 + 3) % GUARD_WORDS] -= amount;
}

static void check_guard(void)
{
	sigset_t alarm, before;
	uint64_t sum = 0;

	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	sigprocmask(SIG_BLOCK, &alarm, &before);
	for (size_t i = 0; i < GUARD_WORDS; i++)
		sum += guard[i];
	sigprocmask(SIG_SETMASK, &before, NULL);
	check(sum == guard_sum, "the signal handler's block has another sum");
}

static void start_ticks(void)
{
	struct sigaction action = { .sa_handler = on_tick, .sa_flags = SA_RESTART };
	struct itimerval every = {
		.it_interval = { .tv_usec = TICK_MS * 1000 },
		.it_value = { .tv_usec = TICK_MS * 1000 },
	};

	for (size_t i = 0; i < GUARD_WORDS; i++) {
		guard[i] = i * i + 1;
		guard_sum += guard[i];
	}
	check(sigaction(SIGALRM, &action, NULL) == 0, "sigaction");
	check(setitimer(ITIMER_REAL, &every, NULL) == 0, "setitimer");
}

static void check_clocks(void)
{
	static struct timespec last;
	struct timespec now;

	check(clock_gettime(CLOCK_MONOTONIC, &now) == 0, "clock_gettime");
	check(now.tv_sec > last.tv_sec ||
		      (now.tv_sec == last.tv_sec && now.tv_nsec >= last.tv_nsec),
	      "the monotonic clock went back");
	last = now;
}

static void pause_for(long milliseconds)
{
	struct timespec left = { milliseconds / 1000, milliseconds % 1000 * 1000000 };

	while (nanosleep(&left, &left) != 0)
		check(errno == EINTR, "nanosleep");
}

static void write_all(int fd, const void *from, size_t length)
{
	const char *at = from;
	while (length > 0) {
		ssize_t n = write(fd, at, length);
		if (n < 0 && errno == EINTR)
			continue;
		check(n > 0, "write");
		at += n;
		length -= (size_t)n;
	}
}

static void read_all(int fd, void *into, size_t length)
{
	char *at = into;
	while (length > 0) {
		ssize_t n = read(fd, at, length);
		if (n < 0 && errno == EINTR)
			continue;
		check(n > 0, "read");
		at += n;
		length -= (size_t)n;
	}
}

/* Reads and writes memory at places that depend on all that was read before. */
static void wander(struct state *s, unsigned long rounds)
{
	uint64_t carry = s->random;

	for (unsigned long i = 0; i < rounds; i++) {
		uint64_t r = next(&s->random);
		uint64_t *word = &s->memory[(r ^ carry) % s->words];
		uint64_t *other = &s->memory[(r >> 32) % s->words];

		carry = (carry << 13 | carry >> 51) + *word;
		*word ^= carry * (r | 1);
		*other += *word / (r >> 40 | 1);
		/* Only operations that IEEE 754 rounds exactly, on values
		 * that stay in a range of a few binades. */
		double d = (double)(int64_t)(*word >> 20) / 17592186044416.0;
		s->sse = __builtin_sqrt(s->sse * 0.75 + d) + 0.125;
		s->x87 = __builtin_sqrtl(s->x87 * 0.5L + (long double)d / 3.0L) + 0.25L;
	}
	s->random ^= carry | 1;
	if (s->random == 0)
		s->random = 1;
}

/* A child does work on its copy of our memory while we go on with ours. */
static void fork_and_join(struct state *s, unsigned long rounds)
{
	int ends[2];
	uint8_t hash[SHA256_BYTES];
	int status;

	check(pipe(ends) == 0, "pipe");
	pid_t child = fork();
	check(child >= 0, "fork");
	if (child == 0) {
		s->random ^= UINT64_C(0x5851F42D4C957F2D);
		wander(s, rounds);
		struct sha256 sha;
		sha256_start(&sha);
		sha256_add(&sha, &s->random, sizeof s->random);
		sha256_add(&sha, s->memory, 8 * PAGE);
		sha256_finish(&sha, hash);
		write_all(ends[1], hash, sizeof hash);
		_exit(42);
	}
	close(ends[1]);
	wander(s, rounds / 2);
	read_all(ends[0], hash, sizeof hash);
	close(ends[0]);
	while (waitpid(child, &status, 0) < 0)
		check(errno == EINTR, "waitpid");
	check(WIFEXITED(status) && WEXITSTATUS(status) == 42, "the child's status");
	for (size_t i = 0; i < SHA256_BYTES; i++)
		s->hash[i] ^= hash[i];
}

/* A file in memory: written in pieces, read back elsewhere. */
static void through_a_file(struct state *s)
{
	enum { LENGTH = 16 * PAGE };
	static uint8_t back[LENGTH];
	size_t from = next(&s->random) % (s->words - LENGTH / 8);

	int fd = memfd_create("count", 0);
	check(fd >= 0, "memfd_create");
	write_all(fd, s->memory + from, LENGTH);
	check(lseek(fd, 0, SEEK_SET) == 0, "lseek");
	read_all(fd, back, LENGTH);
	close(fd);
	check(memcmp(back, s->memory + from, LENGTH) == 0, "the file's content");
	memcpy(s->memory + (next(&s->random) % (s->words - LENGTH / 8)), back, LENGTH);
}

/* Fresh pages must be zero, and keep what they are given. */
static void through_a_mapping(struct state *s)
{
	enum { PAGES = 32, WORDS = PAGE / sizeof(uint64_t) };
	uint64_t *fresh = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t sum = 0;

	check(fresh != MAP_FAILED, "mmap");
	for (size_t i = 0; i < PAGES; i++) {
		uint64_t *word = &fresh[i * WORDS + next(&s->random) % WORDS];
		check(*word == 0, "a fresh page is not zero");
		*word = next(&s->random);
	}
	for (size_t i = 0; i < PAGES * WORDS; i++)
		sum = sum * 31 + fresh[i];
	check(munmap(fresh, PAGES * PAGE) == 0, "munmap");
	s->memory[sum % s->words] ^= sum;
}

/* Folds all that the line's work left behind into the chain's next hash. */
static void chain(struct state *s, unsigned long line)
{
	enum { WINDOW = 4 * PAGE };
	struct sha256 sha;
	size_t from = next(&s->random) % (s->words - WINDOW / 8);
	/* The x87 value has ten bytes; what stands behind them is padding. */
	uint8_t x87[10];

	memcpy(x87, &s->x87, sizeof x87);
	sha256_start(&sha);
	sha256_add(&sha, s->hash, sizeof s->hash);
	sha256_add(&sha, &line, sizeof line);
	sha256_add(&sha, &s->random, sizeof s->random);
	sha256_add(&sha, &s->sse, sizeof s->sse);
	sha256_add(&sha, x87, sizeof x87);
	sha256_add(&sha, s->memory + from, WINDOW);
	sha256_finish(&sha, s->hash);

	uint64_t word;
	memcpy(&word, s->hash, sizeof word);
	s->random ^= word;
	if (s->random == 0)
		s->random = 1;
	memcpy(s->memory + word % (s->words - 4), s->hash, sizeof s->hash);
}

static void print_line(unsigned long line, const uint8_t hash[SHA256_BYTES])
{
	static const char digits[] = "0123456789abcdef";
	char hex[2 * SHA256_BYTES + 1];

	for (size_t i = 0; i < SHA256_BYTES; i++) {
		hex[2 * i] = digits[hash[i] >> 4];
		hex[2 * i + 1] = digits[hash[i] & 15];
	}
	hex[2 * SHA256_BYTES] = 0;
	print("%lu %s\n", line, hex);
}

static unsigned long argument(int argc, char **argv, int at, unsigned long otherwise)
{
	if (at >= argc)
		return otherwise;
	char *end;
	errno = 0;
	unsigned long value = strtoul(argv[at], &end, 10);
	if (errno != 0 || *end != 0 || end == argv[at]) {
		fprintf(stderr, "count: not a number: %s\n", argv[at]);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	if (argc < 2 || argc > 5) {
		fprintf(stderr, "usage: count LINES [ROUNDS [PAUSE_MS [MIB]]]\n");
		return 2;
	}
	unsigned long lines = argument(argc, argv, 1, 0);
	unsigned long rounds = argument(argc, argv, 2, 2000);
	unsigned long pause_ms = argument(argc, argv, 3, 0);
	unsigned long mib = argument(argc, argv, 4, 4);
	if (mib < 1 || mib > 1024) {
		fprintf(stderr, "count: MIB must be 1 to 1024\n");
		return 2;
	}

	struct state s = { .words = mib << 17, .random = 88172645463325252u, .sse = 1, .x87 = 1 };
	s.memory = malloc(s.words * sizeof *s.memory);
	check(s.memory != NULL, "malloc");
	for (size_t i = 0; i < s.words; i++)
		s.memory[i] = next(&s.random);
	start_ticks();

	print("# count %lu %lu\n", rounds, mib);
	for (unsigned long line = 1; line <= lines; line++) {
		wander(&s, rounds);
		if (line % FORK_EVERY == 0)
			fork_and_join(&s, rounds);
		if (line % FILE_EVERY == 0)
			through_a_file(&s);
		if (line % MAPPING_EVERY == 0)
			through_a_mapping(&s);
		chain(&s, line);
		check_clocks();
		check_guard();
		print_line(line, s.hash);
		if (pause_ms > 0)
			pause_for((long)pause_ms);
	}
	print("# done\n");
	return 0;
}
