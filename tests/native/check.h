/* Assertions and failing allocations for the C tests.

   A test file is one translation unit: includes this, has functions of the form
   `static void test_<sentence>(void)`, and a main that RUNs each.  run.py links it with
   -Wl,--wrap=malloc and its kin, so that check_fail_allocation(n) makes the n-th one from now
   return NULL, in the sources under test as well. */
#ifndef HN_CHECK_H
#define HN_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: in %s: not true: %s\n", __FILE__, __LINE__, __func__, \
                    #condition);                                                          \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

#define CHECK_EQUAL(actual, expected)                                                             \
    do {                                                                                          \
        long long check_actual = (long long)(actual), check_expected = (long long)(expected);     \
        if (check_actual != check_expected) {                                                     \
            fprintf(stderr, "%s:%d: in %s: %s is %lld, not %lld\n", __FILE__, __LINE__, __func__, \
                    #actual, check_actual, check_expected);                                       \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

#define RUN(test)                 \
    do {                          \
        test();                   \
        printf("ok %s\n", #test); \
    } while (0)

static uint64_t check_allocations; /* so far */
static uint64_t check_fail_at = UINT64_MAX;

/* Makes the n-th allocation from now fail (1: the next), and only that; 0: none. */
static inline void check_fail_allocation(uint64_t n)
{
    check_fail_at = n ? check_allocations + n : UINT64_MAX;
}

/* True when the allocation to fail has come. */
static inline int check_allocation_failed(void) { return check_allocations >= check_fail_at; }

static int check_refuse(void) { return ++check_allocations == check_fail_at; }

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);

void *__wrap_malloc(size_t bytes) { return check_refuse() ? NULL : __real_malloc(bytes); }

void *__wrap_calloc(size_t count, size_t bytes)
{
    return check_refuse() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    return check_refuse() ? NULL : __real_realloc(memory, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return check_refuse() ? NULL : __real_aligned_alloc(alignment, bytes);
}

/* A small repeatable generator; print the seed of what you start it with. */
static inline uint64_t check_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

#endif
