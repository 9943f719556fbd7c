/* What the IP tables share (see fib.h and neighbor.h). */
#ifndef HN_IP_H
#define HN_IP_H

#include "stack/base.h"
#include "stack/ip/ip_api.h"

#endif
