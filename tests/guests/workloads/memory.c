/* Memory work: streams of 4 MiB, and a walk over 16 MiB in random order. */
#include "workloads.h"

enum { STREAM = 4 << 20, WORDS = STREAM / 8 };

static uint64_t *words_of(uint64_t seed)
{
	uint64_t *words = memory_of(STREAM);

	for (size_t i = 0; i < WORDS; i++)
		words[i] = next_random(&seed);
	return words;
}

static uint64_t sum_of(const uint64_t *words)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < WORDS; i++)
		sum = mix(sum, words[i]);
	return sum;
}

/* Copies 4 MiB by loads and stores, `size` times. */
uint64_t copy_work(unsigned long size)
{
	uint64_t *from = words_of(1), *to = memory_of(STREAM);

	for (unsigned long round = 0; round < size; round++) {
		from[round % WORDS]++;
		for (size_t i = 0; i < WORDS; i++) {
			to[i] = from[i];
			__asm__ volatile("" : : : "memory");
		}
	}
	return sum_of(to);
}

/* Sets 4 MiB by stores, `size` times. */
uint64_t set_work(unsigned long size)
{
	uint64_t *to = memory_of(STREAM);

	for (unsigned long round = 0; round < size; round++) {
		for (size_t i = 0; i < WORDS; i++) {
			to[i] = round;
			__asm__ volatile("" : : : "memory");
		}
		to[round % WORDS]++;
	}
	return sum_of(to);
}

/* Copies 4 MiB by one REP MOVSQ, and 64 KiB back a page at a time by REP MOVSB, `size` times. */
uint64_t rep_movs_work(unsigned long size)
{
	uint64_t *from = words_of(2), *to = memory_of(STREAM);

	for (unsigned long round = 0; round < size; round++) {
		const void *source = from;
		void *target = to;
		size_t count = WORDS;
		from[round % WORDS]++;
		__asm__ volatile("rep movsq" : "+S"(source), "+D"(target), "+c"(count) : : "memory");
		source = to;
		target = from;
		for (size_t done = 0; done < 65536; done += 4096) {
			count = 4096;
			__asm__ volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(count) : : "memory");
		}
	}
	return sum_of(from);
}

/* a = b + s * c over streams of doubles, `size` times. */
uint64_t triad_work(unsigned long size)
{
	double *a = memory_of(STREAM), *b = memory_of(STREAM), *c = memory_of(STREAM);

	for (size_t i = 0; i < WORDS; i++) {
		b[i] = (double)(i % 1000);
		c[i] = (double)(i % 77) / 8;
	}
	for (unsigned long round = 0; round < size; round++) {
		double s = (double)(round % 5) + 0.5;
		for (size_t i = 0; i < WORDS; i++)
			a[i] = b[i] + s * c[i];
		__asm__ volatile("" : : : "memory");
	}
	return sum_of((const uint64_t *)a);
}

/* Follows a random cycle through 16 MiB, a cache line a node, for `size` thousand steps. */
uint64_t chase_work(unsigned long size)
{
	enum { NODES = (16 << 20) / 64, WORDS_A_NODE = 8 };
	uint64_t *nodes = memory_of((size_t)NODES * 64);
	uint64_t random = 3, sum = 0;
	uint32_t *order = memory_of(NODES * sizeof *order);
	size_t at = 0;

	/* Sattolo's shuffle leaves one cycle through all. */
	for (uint32_t i = 0; i < NODES; i++)
		order[i] = i;
	for (uint32_t i = NODES - 1; i > 0; i--) {
		uint32_t j = (uint32_t)(next_random(&random) % i), kept = order[i];
		order[i] = order[j];
		order[j] = kept;
	}
	for (uint32_t i = 0; i < NODES; i++)
		nodes[(size_t)i * WORDS_A_NODE] = order[i];
	for (unsigned long step = 0; step < size * 1000; step++)
		at = nodes[at * WORDS_A_NODE];
	sum = mix(sum, at);
	return sum;
}
