/*
 * Streams over vsock, for tests.
 *
 *   streams echo PORT           accepts one connection after another, gives back what comes, and says
 *                               how each ended
 *   streams send CID PORT MIB   connects, sends so much, ends its side, and says what came back
 *
 * What is sent is a pattern, so that a piece that is lost or moved is noticed.
 */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned char pattern(uint64_t at)
{
	return (unsigned char)(at ^ at >> 8 ^ at >> 16);
}

static int fail(const char *what)
{
	printf("streams: %s: %s\n", what, strerror(errno));
	return 1;
}

static struct sockaddr_vm address(unsigned int cid, unsigned int port)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = cid,
		.svm_port = port,
	};
	return address;
}

static int echo(unsigned int port)
{
	static char bytes[65536];
	struct sockaddr_vm here = address(VMADDR_CID_ANY, port);
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (listener < 0 || bind(listener, (struct sockaddr *)&here, sizeof(here)) < 0 ||
	    listen(listener, 16) < 0)
		return fail("listen");
	puts("streams: listening");
	fflush(stdout);
	for (;;) {
		int stream = accept(listener, NULL, NULL);
		uint64_t total = 0;
		ssize_t length;

		if (stream < 0)
			return fail("accept");
		while ((length = read(stream, bytes, sizeof(bytes))) > 0) {
			ssize_t done = 0, count;

			for (; done < length; done += count) {
				count = write(stream, bytes + done, (size_t)(length - done));
				if (count < 0)
					break;
			}
			if (done < length) {
				length = -1;
				break;
			}
			total += (uint64_t)length;
		}
		printf("streams: an echo ended after %llu bytes: %s\n",
		       (unsigned long long)total, length < 0 ? strerror(errno) : "end");
		fflush(stdout);
		close(stream);
	}
}

struct sender {
	int stream;
	uint64_t total;
};

static void *send_all(void *argument)
{
	static unsigned char bytes[32768];
	struct sender *sender = argument;
	uint64_t sent = 0;

	while (sent < sender->total) {
		size_t length = sizeof(bytes), i;
		ssize_t count;

		if (sender->total - sent < length)
			length = (size_t)(sender->total - sent);
		for (i = 0; i < length; i++)
			bytes[i] = pattern(sent + i);
		count = write(sender->stream, bytes, length);
		if (count < 0)
			return NULL;
		sent += (uint64_t)count;
	}
	shutdown(sender->stream, SHUT_WR);
	return NULL;
}

static int send_and_compare(unsigned int cid, unsigned int port, uint64_t total)
{
	static unsigned char bytes[65536];
	struct sockaddr_vm there = address(cid, port);
	int stream = socket(AF_VSOCK, SOCK_STREAM, 0);
	struct sender sender = { .stream = stream, .total = total };
	uint64_t got = 0, wrong = 0;
	pthread_t thread;
	ssize_t length;

	if (stream < 0 || connect(stream, (struct sockaddr *)&there, sizeof(there)) < 0)
		return fail("connect");
	if (pthread_create(&thread, NULL, send_all, &sender) != 0)
		return fail("thread");
	while ((length = read(stream, bytes, sizeof(bytes))) > 0) {
		for (ssize_t i = 0; i < length; i++)
			wrong += bytes[i] != pattern(got + (uint64_t)i);
		got += (uint64_t)length;
	}
	printf("streams: of %llu bytes %llu came back, %llu of them wrong: %s\n",
	       (unsigned long long)total, (unsigned long long)got, (unsigned long long)wrong,
	       length < 0 ? strerror(errno) : "end");
	return length < 0 || got != total || wrong != 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "echo") == 0)
		return echo((unsigned int)strtoul(argv[2], NULL, 10));
	if (argc == 5 && strcmp(argv[1], "send") == 0)
		return send_and_compare((unsigned int)strtoul(argv[2], NULL, 10),
					(unsigned int)strtoul(argv[3], NULL, 10),
					(uint64_t)strtoul(argv[4], NULL, 10) << 20);
	fprintf(stderr, "usage: streams echo PORT | streams send CID PORT MIB\n");
	return 2;
}
