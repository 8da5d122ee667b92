/* Mends librdkafka 2.4 to 2.8, and is built where that is (see CMakeLists.txt). Called on
 * librdkafka's own main thread, with its lock held for writing. */
#include <librdkafka/rdkafka.h>
#include <stdint.h>

/* Its cache of metadata has two indices, by name and by id. When a topic is deleted and made anew
 * between two looks of a client, the old entry leaves the first alone, and is freed: the next
 * answer from a broker walks through freed memory (issues 4778 and 4964, mended in 2.10). The
 * client can't be kept from it: it looks by itself as soon as a fetch fails, and no call or
 * property empties the cache before. So the old entry is taken out here, by a function of
 * librdkafka's own that knows both indices. */

/* As src/rdkafka_metadata.h has them; the types that are only passed on are void. */
int rd_kafka_metadata_cache_delete_by_name(rd_kafka_t *rk, const char *topic);
typedef int topic_update(rd_kafka_t *rk, const rd_kafka_metadata_topic_t *topic,
                         const void *internal, uint8_t propagate, uint8_t include_racks,
                         void *brokers, size_t n_brokers, uint8_t only_existing);
topic_update __real_rd_kafka_metadata_cache_topic_update;
topic_update __wrap_rd_kafka_metadata_cache_topic_update;

int __wrap_rd_kafka_metadata_cache_topic_update(rd_kafka_t *rk,
                                                const rd_kafka_metadata_topic_t *topic,
                                                const void *internal, uint8_t propagate,
                                                uint8_t include_racks, void *brokers,
                                                size_t n_brokers, uint8_t only_existing) {
    int was_there = topic->topic && rd_kafka_metadata_cache_delete_by_name(rk, topic->topic);
    return __real_rd_kafka_metadata_cache_topic_update(rk, topic, internal, propagate,
                                                       include_racks, brokers, n_brokers,
                                                       only_existing && !was_there) ||
           was_there;
}
