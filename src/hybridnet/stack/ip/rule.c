#include "stack/ip/fib_internal.h"

enum { TABLE_DEFAULT = 253, TABLE_MAIN = 254, TABLE_LOCAL = 255 };

static bool rule_valid(const struct hn_rule *rule, uint8_t family)
{
    uint8_t bits = hn_family_bits(family);
    if (rule->family != family || rule->source_bits > bits || rule->destination_bits > bits)
        return false;
    return rule->opaque || rule->action == 1 || rule->action == 3 ||
           (rule->action >= 6 && rule->action <= 8);
}

/* Insertion keeps rules of equal priority in the order given, which is the kernel's. */
static void rules_sort(struct hn_fib_rule *list, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        struct hn_fib_rule moved = list[i];
        size_t j = i;
        for (; j > 0 && list[j - 1].rule.priority > moved.rule.priority; j--)
            list[j] = list[j - 1];
        list[j] = moved;
    }
}

static void rule_fill(const struct hn_fib *fib, struct hn_fib_rule *to, const struct hn_rule *from)
{
    to->rule = *from;
    to->source =
        hn_fib_prefix_mask(hn_fib_prefix_load(from->family, from->source), from->source_bits);
    to->destination = hn_fib_prefix_mask(hn_fib_prefix_load(from->family, from->destination),
                                         from->destination_bits);
    to->table = hn_fib_table_find(fib, from->family, from->table);
}

static bool rules_equal(const struct hn_fib_rules *a, const struct hn_fib_rule *b, size_t count)
{
    if (a->count != count)
        return false;
    for (size_t i = 0; i < count; i++) {
        const struct hn_rule *x = &a->list[i].rule, *y = &b[i].rule;
        if (x->priority != y->priority || x->table != y->table || x->action != y->action ||
            x->opaque != y->opaque || x->source_bits != y->source_bits ||
            x->destination_bits != y->destination_bits ||
            !hn_fib_prefix_equal(a->list[i].source, b[i].source) ||
            !hn_fib_prefix_equal(a->list[i].destination, b[i].destination))
            return false;
    }
    return true;
}

int hn_fib_set_rules(struct hn_fib *fib, uint8_t family, const struct hn_rule *rules, size_t count)
{
    if (!hn_family_valid(family) || count > UINT16_MAX)
        return -EINVAL;
    for (size_t i = 0; i < count; i++)
        if (!rule_valid(&rules[i], family))
            return -EINVAL;
    struct hn_fib_rule *list = calloc(count ? count : 1, sizeof *list);
    if (!list)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        rule_fill(fib, &list[i], &rules[i]);
    rules_sort(list, count);
    struct hn_fib_rules *current = &fib->rules[hn_family_index(family)];
    if (!current->list || !rules_equal(current, list, count))
        fib->generation++;
    free(current->list);
    current->list = list;
    current->count = count;
    return 0;
}

int hn_fib_rules_init(struct hn_fib *fib)
{
    struct hn_rule rules[3] = {
        {.priority = 0, .table = TABLE_LOCAL, .family = HN_FAMILY_IPV4, .action = 1},
        {.priority = 32766, .table = TABLE_MAIN, .family = HN_FAMILY_IPV4, .action = 1},
        {.priority = 32767, .table = TABLE_DEFAULT, .family = HN_FAMILY_IPV4, .action = 1},
    };
    int error = hn_fib_set_rules(fib, HN_FAMILY_IPV4, rules, 3);
    if (error < 0)
        return error;
    rules[0].family = rules[1].family = HN_FAMILY_IPV6;
    return hn_fib_set_rules(fib, HN_FAMILY_IPV6, rules, 2); /* IPv6 has no default table */
}

void hn_fib_rules_free(struct hn_fib *fib)
{
    for (unsigned i = 0; i < 2; i++)
        free(fib->rules[i].list);
}

void hn_fib_rules_resolve(struct hn_fib *fib, const struct hn_fib_table *table)
{
    struct hn_fib_rules *rules = &fib->rules[hn_family_index(table->family)];
    for (size_t i = 0; i < rules->count; i++)
        if (rules->list[i].rule.table == table->id)
            rules->list[i].table = table;
}
