#ifndef HN_PROGRAM_H
#define HN_PROGRAM_H

#include "stack/base.h"
#include "xsk/program_api.h"

#endif
