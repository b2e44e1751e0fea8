/* Floating-point work in double precision. Sums, products, quotients and
 * square roots only, whose results IEEE 754 fixes to the last bit. */
#include "workloads.h"

#include <string.h>

static uint64_t bits_of(double value)
{
	uint64_t bits;

	memcpy(&bits, &value, sizeof bits);
	return bits;
}

/* Five bodies under each other's gravity for `size` steps of time. */
uint64_t nbody_work(unsigned long size)
{
	enum { BODIES = 5, AXES = 3 };
	static const double step = 1.0 / 1024;
	double place[BODIES][AXES], speed[BODIES][AXES], mass[BODIES];
	uint64_t sum = 0;

	for (int body = 0; body < BODIES; body++) {
		mass[body] = 1.0 / (1 + body * body * 16);
		for (int axis = 0; axis < AXES; axis++) {
			place[body][axis] = body * (axis == 0 ? 2.0 : 0.25 * axis) - axis;
			speed[body][axis] = body == 0 ? 0.0 : (axis == 1 ? 1.0 / body : 0.0625 * axis);
		}
	}
	for (unsigned long i = 0; i < size; i++) {
		for (int a = 0; a < BODIES; a++) {
			for (int b = a + 1; b < BODIES; b++) {
				double apart[AXES], square = 0.001;
				for (int axis = 0; axis < AXES; axis++) {
					apart[axis] = place[a][axis] - place[b][axis];
					square += apart[axis] * apart[axis];
				}
				double pull = step / (square * __builtin_sqrt(square));
				for (int axis = 0; axis < AXES; axis++) {
					speed[a][axis] -= apart[axis] * mass[b] * pull;
					speed[b][axis] += apart[axis] * mass[a] * pull;
				}
			}
		}
		for (int body = 0; body < BODIES; body++)
			for (int axis = 0; axis < AXES; axis++)
				place[body][axis] += step * speed[body][axis];
	}
	for (int body = 0; body < BODIES; body++)
		for (int axis = 0; axis < AXES; axis++)
			sum = mix(sum, bits_of(place[body][axis]));
	return sum;
}

/* How long the points of a `size` by `size` grid stay, 64 turns at most. */
uint64_t mandelbrot_work(unsigned long size)
{
	uint64_t sum = 0;

	for (unsigned long row = 0; row < size; row++) {
		for (unsigned long column = 0; column < size; column++) {
			double cr = 3.0 * (double)column / (double)size - 2.25;
			double ci = 3.0 * (double)row / (double)size - 1.5;
			double r = 0, i = 0;
			unsigned turns = 0;
			while (turns < 64 && r * r + i * i <= 4.0) {
				double next = r * r - i * i + cr;
				i = 2.0 * r * i + ci;
				r = next;
				turns++;
			}
			sum = mix(sum, turns);
		}
	}
	return sum;
}

/* `size` products of matrices of 96 by 96. */
uint64_t matrix_work(unsigned long size)
{
	enum { N = 96 };
	static double a[N][N], b[N][N], c[N][N];
	uint64_t sum = 0;

	for (int i = 0; i < N; i++) {
		for (int j = 0; j < N; j++) {
			a[i][j] = 1.0 / (1 + i + j);
			b[i][j] = (i * 7 + j * 3) % 11 - 5;
		}
	}
	for (unsigned long round = 0; round < size; round++) {
		memset(c, 0, sizeof c);
		for (int i = 0; i < N; i++)
			for (int k = 0; k < N; k++)
				for (int j = 0; j < N; j++)
					c[i][j] += a[i][k] * b[k][j];
		a[round % N][round % 7] = c[round % 5][round % N] * 0.5;
	}
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++)
			sum = mix(sum, bits_of(c[i][j]));
	return sum;
}
