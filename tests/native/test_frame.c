// sources: stack/frame.c
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "stack/frame.h"

static void test_pool_refuses_frame_sizes_other_than_2048_and_4096(void)
{
    struct hn_pool pool;
    CHECK_EQUAL(hn_pool_init(&pool, 16, 1024), -EINVAL);
    CHECK_EQUAL(hn_pool_init(&pool, 16, 3000), -EINVAL);
    CHECK_EQUAL(hn_pool_init(&pool, 16, 8192), -EINVAL);
    CHECK_EQUAL(hn_pool_init(&pool, 0, 2048), -EINVAL);
    CHECK_EQUAL(hn_pool_init(&pool, 16, 4096), 0);
    hn_pool_free(&pool);
}

static void test_pool_without_memory_leaves_nothing_behind(void)
{
    struct hn_pool pool;
    uint64_t n = 1;
    for (;; n++) {
        check_fail_allocation(n);
        int result = hn_pool_init(&pool, 16, 2048);
        bool failed = check_allocation_failed();
        check_fail_allocation(0);
        if (!failed) {
            CHECK_EQUAL(result, 0);
            break;
        }
        CHECK_EQUAL(result, -ENOMEM);
        CHECK(!pool.memory && !pool.frames && !pool.free_list);
    }
    CHECK(n > 1);
    hn_pool_free(&pool);
}

static void test_new_frame_is_empty_and_begins_behind_the_headroom(void)
{
    struct hn_pool pool;
    CHECK_EQUAL(hn_pool_init(&pool, 4, 2048), 0);
    struct hn_frame *frame = hn_frame_alloc(&pool, HN_OWNER_STACK);
    CHECK_EQUAL(hn_frame_index(&pool, frame), 0);
    CHECK(frame->data == hn_frame_base(&pool, frame) + HN_FRAME_HEADROOM);
    CHECK_EQUAL(hn_frame_room(&pool, frame), 2048 - HN_FRAME_HEADROOM);
    CHECK(frame->length == 0 && frame->next == HN_FRAME_NONE && frame->flags == 0);
    CHECK_EQUAL(frame->owner, HN_OWNER_STACK);
    hn_frame_free(&pool, frame, HN_OWNER_STACK);
    CHECK_EQUAL(frame->owner, HN_OWNER_POOL);
    hn_pool_free(&pool);
}

static void test_every_frame_is_given_once_and_the_empty_pool_gives_none(void)
{
    struct hn_pool pool;
    struct hn_frame *frames[64];
    CHECK_EQUAL(hn_pool_init(&pool, 64, 2048), 0);
    for (uint32_t i = 0; i < 64; i++) {
        frames[i] = hn_frame_alloc(&pool, HN_OWNER_FILL);
        for (uint32_t j = 0; j < i; j++)
            CHECK(frames[i] != frames[j]);
    }
    CHECK(hn_frame_alloc(&pool, HN_OWNER_FILL) == NULL);
    CHECK_EQUAL(pool.free_count, 0);
    CHECK_EQUAL(pool.free_count_min, 0);
    for (uint32_t i = 0; i < 64; i++)
        hn_frame_free(&pool, frames[i], HN_OWNER_FILL);
    CHECK_EQUAL(pool.free_count, 64);
    CHECK_EQUAL(pool.free_count_min, 0);
    hn_pool_free(&pool);
}

static void test_freed_frame_is_poisoned_and_used_next(void)
{
    struct hn_pool pool;
    CHECK_EQUAL(hn_pool_init(&pool, 4, 2048), 0);
    struct hn_frame *frame = hn_frame_alloc(&pool, HN_OWNER_USER);
    memset(frame->data, 1, 100);
    hn_frame_free(&pool, frame, HN_OWNER_USER);
    CHECK_EQUAL(hn_frame_base(&pool, frame)[HN_FRAME_HEADROOM + 99], 0xdb);
    CHECK(hn_frame_alloc(&pool, HN_OWNER_STACK) == frame);
    hn_pool_free(&pool);
}

static void test_freed_packet_gives_its_whole_chain_back(void)
{
    struct hn_pool pool;
    CHECK_EQUAL(hn_pool_init(&pool, 8, 2048), 0);
    struct hn_frame *a = hn_frame_alloc(&pool, HN_OWNER_STACK);
    struct hn_frame *b = hn_frame_alloc(&pool, HN_OWNER_STACK);
    struct hn_frame *c = hn_frame_alloc(&pool, HN_OWNER_STACK);
    a->next = hn_frame_index(&pool, b);
    b->next = hn_frame_index(&pool, c);
    CHECK_EQUAL(pool.free_count, 5);
    hn_packet_free(&pool, a, HN_OWNER_STACK);
    CHECK_EQUAL(pool.free_count, 8);
    hn_pool_free(&pool);
}

/* Runs `act` in a child whose end is told; its words go nowhere. */
static int signal_of(void (*act)(void))
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(2);
        act();
        _exit(0);
    }
    int status;
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void free_twice(void)
{
    struct hn_pool pool;
    if (hn_pool_init(&pool, 4, 2048) != 0)
        _exit(3);
    struct hn_frame *frame = hn_frame_alloc(&pool, HN_OWNER_STACK);
    hn_frame_free(&pool, frame, HN_OWNER_STACK);
    hn_frame_free(&pool, frame, HN_OWNER_STACK);
}

static void free_somebody_elses(void)
{
    struct hn_pool pool;
    if (hn_pool_init(&pool, 4, 2048) != 0)
        _exit(3);
    hn_frame_free(&pool, hn_frame_alloc(&pool, HN_OWNER_FILL), HN_OWNER_TX);
}

static void test_debug_build_stops_at_a_wrong_owner(void)
{
    CHECK_EQUAL(signal_of(free_twice), SIGABRT);
    CHECK_EQUAL(signal_of(free_somebody_elses), SIGABRT);
}

int main(void)
{
    RUN(test_pool_refuses_frame_sizes_other_than_2048_and_4096);
    RUN(test_pool_without_memory_leaves_nothing_behind);
    RUN(test_new_frame_is_empty_and_begins_behind_the_headroom);
    RUN(test_every_frame_is_given_once_and_the_empty_pool_gives_none);
    RUN(test_freed_frame_is_poisoned_and_used_next);
    RUN(test_freed_packet_gives_its_whole_chain_back);
    RUN(test_debug_build_stops_at_a_wrong_owner);
    return 0;
}
