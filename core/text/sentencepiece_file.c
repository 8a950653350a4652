/* SentencePiece .model files: the ModelProto message (sentencepiece_model.proto), as far as it changes what a text
 * becomes.
 *
 * The model begins a text with its <s> when it has one, as Llama's do; SentencePiece itself adds nothing unless asked.
 */
#include "base/error.h"
#include "base/memory.h"
#include "text/protobuf.h"
#include "text/sentencepiece.h"

#include <string.h>

/* Field numbers of sentencepiece_model.proto. */
enum model_field { MODEL_PIECE = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3, MODEL_DENORMALIZER = 5 };
enum piece_field { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum trainer_field {
    TRAINER_MODEL_TYPE = 3,
    TRAINER_SPACE_AS_SUFFIX = 24,
    TRAINER_BYTE_FALLBACK = 35,
    TRAINER_UNKNOWN_SURFACE = 44,
    TRAINER_BEGIN = 46,
    TRAINER_END = 47,
    TRAINER_PAD = 48
};
enum normalizer_field {
    NORMALIZER_CHARSMAP = 2,
    NORMALIZER_DUMMY_PREFIX = 3,
    NORMALIZER_REMOVE_EXTRA = 4,
    NORMALIZER_ESCAPE = 5
};
enum model_type { TYPE_UNIGRAM = 1, TYPE_BPE = 2, TYPE_WORD = 3, TYPE_CHAR = 4 };

struct model_file {
    struct proto_field begin, end, pad; /* names of special pieces; bytes NULL: the usual ones */
    struct tokenizer *tokenizer;
    struct sentencepiece *model;
};

/* ---- what kind of model --------------------------------------------------------------------------- */
static int find_type(struct proto_reader reader, uint64_t *type) {
    int status = 0;
    struct proto_field field, nested;
    bool more;
    *type = TYPE_UNIGRAM;
    for (;;) {
        TRY(proto_next(&reader, &field, &more));
        if (!more) break;
        if (field.number != MODEL_TRAINER) continue;
        TRY(proto_bytes(&field, "trainer_spec"));
        struct proto_reader inside = proto_nested(&reader, &field);
        for (;;) {
            TRY(proto_next(&inside, &nested, &more));
            if (!more) break;
            if (nested.number == TRAINER_MODEL_TYPE) TRY(proto_number(&nested, "model_type", type));
        }
    }
    if (*type == TYPE_WORD || *type == TYPE_CHAR)
        FAIL(E_UNSUPPORTED, "model_type %s is not read: only unigram and bpe are",
             *type == TYPE_WORD ? "word" : "char");
    if (*type != TYPE_UNIGRAM && *type != TYPE_BPE)
        FAIL(E_UNSUPPORTED, "model_type %llu does not exist", (unsigned long long)*type);
out:
    return status;
}

/* ---- the parts ------------------------------------------------------------------------------------ */
static int read_piece(struct model_file *file, struct proto_reader reader) {
    int status = 0;
    struct proto_field field, text = {0};
    float score = 0;
    uint64_t type = PIECE_NORMAL;
    bool more;
    for (;;) {
        TRY(proto_next(&reader, &field, &more));
        if (!more) break;
        switch (field.number) {
        case PIECE_TEXT:
            TRY(proto_bytes(&field, "piece"));
            text = field;
            break;
        case PIECE_SCORE: TRY(proto_float(&field, "score", &score)); break;
        case PIECE_TYPE: TRY(proto_number(&field, "type", &type)); break;
        default: break;
        }
    }
    status = sentencepiece_add(file->tokenizer, (const char *)text.bytes, text.count, score, type);
    if (status < 0) error_prefix(status, "byte %zu", reader.position);
out:
    return status;
}

static int read_trainer(struct model_file *file, struct proto_reader reader) {
    int status = 0;
    struct sentencepiece *model = file->model;
    struct proto_field field;
    bool more;
    for (;;) {
        TRY(proto_next(&reader, &field, &more));
        if (!more) break;
        switch (field.number) {
        case TRAINER_SPACE_AS_SUFFIX:
            TRY(proto_flag(&field, "treat_whitespace_as_suffix", &model->space_as_suffix));
            break;
        case TRAINER_BYTE_FALLBACK: TRY(proto_flag(&field, "byte_fallback", &model->byte_fallback)); break;
        case TRAINER_UNKNOWN_SURFACE:
            TRY(proto_bytes(&field, "unk_surface"));
            memory_release(model->unknown_surface);
            model->unknown_surface = NULL;
            TRY(memory_string_n(&model->unknown_surface, (const char *)field.bytes, field.count));
            break;
        case TRAINER_BEGIN:
            TRY(proto_bytes(&field, "bos_piece"));
            file->begin = field;
            break;
        case TRAINER_END:
            TRY(proto_bytes(&field, "eos_piece"));
            file->end = field;
            break;
        case TRAINER_PAD:
            TRY(proto_bytes(&field, "pad_piece"));
            file->pad = field;
            break;
        default: break;
        }
    }
out:
    return status;
}

static int read_normalizer(struct model_file *file, struct proto_reader reader) {
    int status = 0;
    struct sentencepiece *model = file->model;
    struct proto_field field;
    bool more;
    for (;;) {
        TRY(proto_next(&reader, &field, &more));
        if (!more) break;
        switch (field.number) {
        case NORMALIZER_CHARSMAP:
            TRY(proto_bytes(&field, "precompiled_charsmap"));
            charsmap_close(&model->charsmap);
            TRY(charsmap_open(&model->charsmap, field.bytes, field.count));
            break;
        case NORMALIZER_DUMMY_PREFIX: TRY(proto_flag(&field, "add_dummy_prefix", &model->add_dummy_prefix)); break;
        case NORMALIZER_REMOVE_EXTRA:
            TRY(proto_flag(&field, "remove_extra_whitespaces", &model->remove_extra_spaces));
            break;
        case NORMALIZER_ESCAPE: TRY(proto_flag(&field, "escape_whitespaces", &model->escape_spaces)); break;
        default: break;
        }
    }
out:
    return status;
}

/* A rule that rewrites decoded text is rare and would be left out of ours. */
static int check_denormalizer(struct proto_reader reader) {
    int status = 0;
    struct proto_field field;
    bool more;
    for (;;) {
        TRY(proto_next(&reader, &field, &more));
        if (!more) break;
        if (field.number == NORMALIZER_CHARSMAP && field.count)
            FAIL(E_UNSUPPORTED, "byte %zu: a denormalizer_spec with rules is not supported", field.position);
    }
out:
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------------ */
static int read_model(struct model_file *file, struct proto_reader reader) {
    int status = 0;
    struct proto_field field;
    bool more;
    for (;;) {
        TRY(proto_next(&reader, &field, &more));
        if (!more) break;
        struct proto_reader inside =
            field.wire == PROTO_BYTES ? proto_nested(&reader, &field) : (struct proto_reader){0};
        switch (field.number) {
        case MODEL_PIECE:
            TRY(proto_bytes(&field, "pieces"));
            TRY(read_piece(file, inside));
            break;
        case MODEL_TRAINER: TRY(read_trainer(file, inside)); break;
        case MODEL_NORMALIZER:
            TRY(proto_bytes(&field, "normalizer_spec"));
            TRY(read_normalizer(file, inside));
            break;
        case MODEL_DENORMALIZER:
            TRY(proto_bytes(&field, "denormalizer_spec"));
            TRY(check_denormalizer(inside));
            break;
        default: break;
        }
    }
out:
    return status;
}

/* The id of a control piece by the name the file gives, or by the usual one. */
static int32_t control_id(const struct model_file *file, const struct proto_field *name, const char *usual) {
    const char *text = name->count ? (const char *)name->bytes : usual;
    uint32_t id = text_pool_find(&file->tokenizer->tokens, text, name->count ? name->count : strlen(usual));
    return id != MAP_NONE && file->model->pieces[id].type == PIECE_CONTROL ? (int32_t)id : -1;
}

int tokenizer_parse_sentencepiece(struct tokenizer **tokenizer, const void *model, size_t bytes) {
    int status = 0;
    struct model_file file = {0};
    uint64_t type;
    *tokenizer = NULL;
    TRY(find_type(proto_reader(model, bytes), &type));
    TRY(sentencepiece_new(&file.tokenizer, type == TYPE_BPE ? TOKENIZER_SENTENCE_BPE : TOKENIZER_UNIGRAM));
    file.model = sentencepiece_of(file.tokenizer);
    TRY(read_model(&file, proto_reader(model, bytes)));
    TRY(sentencepiece_finish(file.tokenizer));
    struct tokenizer_special *names = &file.tokenizer->names;
    names->begin = control_id(&file, &file.begin, "<s>");
    names->end = control_id(&file, &file.end, "</s>");
    names->pad = control_id(&file, &file.pad, "<pad>");
    if (names->begin >= 0) {
        template_add(&file.tokenizer->single, TEMPLATE_ID, names->begin, 0);
        template_add(&file.tokenizer->single, TEMPLATE_FIRST, 0, 0);
    }
    *tokenizer = file.tokenizer;
    file.tokenizer = NULL;
out:
    tokenizer_free(file.tokenizer);
    return status;
}
