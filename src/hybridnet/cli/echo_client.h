#ifndef HN_ECHO_CLIENT_H
#define HN_ECHO_CLIENT_H

#include "stack/base.h"
#include "cli/client_api.h"

#endif
