#ifndef HN_CONTROL_H
#define HN_CONTROL_H

#include "stack/base.h"
#include "stack/ip/fib.h"
#include "stack/ip/neighbor.h"
#include "control/control_api.h"

#endif
