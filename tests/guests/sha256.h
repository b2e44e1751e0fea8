/* SHA-256 as in FIPS 180-4, for guest programs: bytes in, 32 bytes out. */
#ifndef SHA256_H
#define SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SHA256_BYTES = 32, SHA256_BLOCK = 64 };

struct sha256 {
	uint32_t h[8];
	uint64_t length;
	uint8_t block[SHA256_BLOCK];
};

void sha256_start(struct sha256 *sha);
void sha256_add(struct sha256 *sha, const void *bytes, size_t length);
void sha256_finish(struct sha256 *sha, uint8_t digest[SHA256_BYTES]);

#endif
