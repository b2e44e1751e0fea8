/*
 * The number of pairs of queues that a network card uses, as `ethtool -L DEVICE combined N`.
 *
 *   channels DEVICE [N]    sets it, if N is given; says how many are used, and how many there are
 */
#define _GNU_SOURCE
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct ethtool_channels channels = { .cmd = ETHTOOL_GCHANNELS };
	struct ifreq request = { 0 };
	int any = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc < 2 || strlen(argv[1]) >= IFNAMSIZ)
		return 2;
	strcpy(request.ifr_name, argv[1]);
	request.ifr_data = (char *)&channels;
	if (ioctl(any, SIOCETHTOOL, &request)) {
		perror("channels");
		return 1;
	}
	if (argc > 2) {
		channels.cmd = ETHTOOL_SCHANNELS;
		channels.combined_count = (unsigned)atoi(argv[2]);
		if (ioctl(any, SIOCETHTOOL, &request)) {
			perror("channels");
			return 1;
		}
		channels.cmd = ETHTOOL_GCHANNELS;
		if (ioctl(any, SIOCETHTOOL, &request)) {
			perror("channels");
			return 1;
		}
	}
	printf("channels: %u of %u\n", channels.combined_count, channels.max_combined);
	return 0;
}
