#include "stack/frame.h"

#include <sys/mman.h>

int hn_pool_init(struct hn_pool *pool, uint32_t frame_count, uint32_t frame_bytes)
{
    memset(pool, 0, sizeof *pool);
    if (frame_count == 0 || (frame_bytes != 2048 && frame_bytes != 4096))
        return -EINVAL;
    size_t bytes = (size_t)frame_count * frame_bytes;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -ENOMEM;
    pool->memory = memory;
    pool->frame_count = frame_count;
    pool->frame_bytes = frame_bytes;
    pool->frame_shift = (uint32_t)__builtin_ctz(frame_bytes);
    pool->frames = aligned_alloc(HN_CACHE_LINE, (size_t)frame_count * sizeof *pool->frames);
    pool->free_list = calloc(frame_count, sizeof *pool->free_list);
    if (!pool->frames || !pool->free_list) {
        hn_pool_free(pool);
        return -ENOMEM;
    }
    memset(pool->frames, 0, (size_t)frame_count * sizeof *pool->frames);
    /* Pushed from the top, so that the lowest addresses are handed out first. */
    for (uint32_t i = 0; i < frame_count; i++)
        pool->free_list[i] = frame_count - 1 - i;
    pool->free_count = frame_count;
    pool->free_count_min = frame_count;
    return 0;
}

void hn_pool_free(struct hn_pool *pool)
{
    if (pool->memory)
        munmap(pool->memory, (size_t)pool->frame_count * pool->frame_bytes);
    free(pool->frames);
    free(pool->free_list);
    memset(pool, 0, sizeof *pool);
}
