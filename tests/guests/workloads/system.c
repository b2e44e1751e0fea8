/* Work of the guest's kernel: entries, processes, switches, page faults. */
#define _GNU_SOURCE
#include "workloads.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* `size` thousand system calls that do next to nothing. */
uint64_t syscall_work(unsigned long size)
{
	uint64_t sum = size;

	for (unsigned long i = 0; i < size * 1000; i++)
		sum += (uint64_t)(syscall(SYS_lseek, -1, (long)i, 0) == -1 && errno == EBADF);
	return sum;
}

static uint64_t status_of(pid_t child)
{
	int status;

	if (child < 0)
		fail("fork");
	if (waitpid(child, &status, 0) != child)
		fail("waitpid");
	if (!WIFEXITED(status))
		fail("a child died");
	return (uint64_t)WEXITSTATUS(status);
}

/* `size` children that end at once. */
uint64_t fork_work(unsigned long size)
{
	uint64_t sum = size;

	for (unsigned long i = 0; i < size; i++) {
		pid_t child = fork();
		if (child == 0)
			_exit((int)(i % 100));
		sum = mix(sum, status_of(child));
	}
	return sum;
}

/* `size` times this program, started and ended. */
uint64_t exec_work(unsigned long size)
{
	uint64_t sum = size;

	for (unsigned long i = 0; i < size; i++) {
		pid_t child = fork();
		if (child == 0) {
			execl("/proc/self/exe", "workload", "nothing", (char *)NULL);
			_exit(127);
		}
		sum = mix(sum, status_of(child));
	}
	return sum;
}

/* `size` times a byte there and back between two processes. */
uint64_t pipe_work(unsigned long size)
{
	int there[2], back[2];
	uint64_t sum = size;

	if (pipe(there) != 0 || pipe(back) != 0)
		fail("pipe");
	pid_t child = fork();
	if (child == 0) {
		uint8_t byte;
		close(there[1]);
		while (read(there[0], &byte, 1) == 1) {
			byte = (uint8_t)(byte * 5 + 1);
			if (write(back[1], &byte, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	for (unsigned long i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(sum + i);
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			fail("a pipe");
		sum = mix(sum, byte);
	}
	close(there[1]);
	return mix(sum, status_of(child));
}

/* `size` times 4 MiB of fresh pages, one byte written in each. */
uint64_t touch_work(unsigned long size)
{
	enum { BYTES = 4 << 20, PAGE = 4096 };
	uint64_t sum = size;

	for (unsigned long round = 0; round < size; round++) {
		uint8_t *fresh = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (fresh == MAP_FAILED)
			fail("mmap");
		/* Whether the guest has large pages to give must not matter. */
		if (madvise(fresh, BYTES, MADV_NOHUGEPAGE) != 0 && errno != EINVAL)
			fail("madvise");
		for (size_t at = 0; at < BYTES; at += PAGE) {
			sum += fresh[at];
			fresh[at] = (uint8_t)round;
		}
		sum = mix(sum, fresh[PAGE]);
		if (munmap(fresh, BYTES) != 0)
			fail("munmap");
	}
	return sum;
}
