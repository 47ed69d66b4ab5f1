// Codes chosen by second moments (sdk/tools/lab/quantize/gptq.h), and a model's (calibration.h).
#ifdef KEEL_HAVE_CALIBRATION
#include "sdk/tools/lab/quantize/calibration.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <Eigen/LU>
#include <cmath>
#include <filesystem>
#include <limits>
#include <random>
#include <stdexcept>

#include "sdk/core/hash.h"
#include "sdk/model/model.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/lab/quantize/activation_tap.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "sdk/tools/lab/quantize/row_steps.h"
#include "sdk/tools/lab/quantize/type_solver.h"
#include "tests/test_paths.h"
#include "tests/tools/bundled_request.h"

namespace keel::tools {
namespace {

std::vector<float> normals(uint64_t seed, size_t count) {
    std::mt19937_64 engine(seed);
    std::vector<float> x;
    for (size_t i = 0; i < count; ++i) {
        double v = -6;
        for (int j = 0; j < 12; ++j) v += static_cast<double>(engine() >> 11) * 0x1p-53;
        x.push_back(static_cast<float>(v));
    }
    return x;
}

// Of correlated vectors, some of whose elements are much larger.
Eigen::MatrixXd moment(uint64_t seed, Eigen::Index n) {
    const std::vector<float> x = normals(seed, static_cast<size_t>(3 * n * n));
    Eigen::MatrixXd rows(3 * n, n);
    for (Eigen::Index i = 0; i < 3 * n; ++i)
        for (Eigen::Index j = 0; j < n; ++j)
            rows(i, j) = static_cast<double>(x[static_cast<size_t>(i * n + j)]) * (j % 7 ? 1 : 4) +
                         (j ? 0.7 * rows(i, j - 1) : 0);
    return rows.transpose() * rows / static_cast<double>(3 * n);
}

GptqOptions plain(bool activation_order) {
    return {.damping = 0, .activation_order = activation_order, .sweeps = 0, .threads = 1};
}

// One grid a row, instead of scales for each block.
RowGrid one_grid(std::span<const float> row) {
    return row_step_grid(row, 0.4);
}

double loss_of(const GptqFactor& factor, uint32_t type, const std::vector<uint8_t>& bytes, std::vector<float> x) {
    const std::vector<float> y = decode_rows(type, bytes, factor.columns());
    for (size_t i = 0; i < x.size(); ++i) x[i] = y[i] - x[i];
    return factor.loss(x);
}

// OBQ by its definition: after each column the inverse of what is left of H is computed anew, and the columns left take
// the values that minimise the quadratic.
TEST(Calibration, CodesAreThoseOfBruteForceObq) {
    constexpr size_t kColumns = 32;
    for (const bool activation_order : {false, true}) {
        const Eigen::MatrixXd h = moment(3, kColumns);
        std::vector<Eigen::Index> order(kColumns);
        for (size_t i = 0; i < kColumns; ++i) order[i] = static_cast<Eigen::Index>(i);
        if (activation_order)
            std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return h(a, a) > h(b, b); });
        std::vector<Eigen::MatrixXd> inverse;  // of the columns from each one on
        std::vector<float> importance(kColumns);
        for (size_t done = 0; done < kColumns; ++done) {
            const std::vector<Eigen::Index> left(order.begin() + static_cast<ptrdiff_t>(done), order.end());
            inverse.push_back(Eigen::MatrixXd(h(left, left)).inverse());
            importance[static_cast<size_t>(order[done])] = static_cast<float>(1 / inverse.back()(0, 0));
        }
        for (const uint32_t type : {kernels::kQ4_0, kernels::kQ4_1, kernels::kIQ4_NL, kernels::kQ8_0}) {
            const bool row_grid = type == kernels::kQ8_0;
            const std::vector<float> x = normals(4, 6 * kColumns);
            const GptqFactor factor(h, plain(activation_order));
            const std::vector<uint8_t> bytes = row_grid ? factor.quantize(type, x, one_grid) : factor.quantize(type, x);
            std::vector<uint8_t> expected(bytes.size());
            for (size_t row = 0; row < 6; ++row) {
                const std::span<const float> w = std::span(x).subspan(row * kColumns, kColumns);
                RowGrid grid = row_grid ? one_grid(w) : RowGrid(type, w, importance);
                std::vector<double> value(w.begin(), w.end());
                for (size_t done = 0; done < kColumns; ++done) {
                    const size_t c = static_cast<size_t>(order[done]);
                    const double e = value[c] - static_cast<double>(grid.choose(c, value[c]));
                    for (size_t k = done; k < kColumns; ++k)
                        value[static_cast<size_t>(order[k])] -=
                            e * inverse[done](static_cast<Eigen::Index>(k - done), 0) / inverse[done](0, 0);
                }
                grid.write(expected.data() + row * expected.size() / 6);
            }
            EXPECT_EQ(bytes, expected) << kernels::kWeightTypes[type].name;
        }
    }
}

TEST(Calibration, WithADiagonalMomentCodesAreTheNearest) {
    std::vector<float> importance(512);
    Eigen::MatrixXd h = Eigen::MatrixXd::Zero(512, 512);
    for (Eigen::Index i = 0; i < 512; ++i) {
        h(i, i) = i % 5 ? 1 : 16;
        importance[static_cast<size_t>(i)] = static_cast<float>(h(i, i));
    }
    const std::vector<float> x = normals(5, 3 * 512);
    for (const uint32_t type : {kernels::kQ4_0, kernels::kQ3_K, kernels::kQ4_K, kernels::kIQ4_XS})
        EXPECT_EQ(GptqFactor(h, plain(true)).quantize(type, x), quantize_rows(type, x, 512, importance))
            << kernels::kWeightTypes[type].name;
    EXPECT_EQ(GptqFactor(h, plain(true)).quantize(kernels::kQ8_0, x, one_grid), quantize_row_steps(x, 512, 0.4));
}

TEST(Calibration, LosesLessThanTheNearestCodes) {
    const Eigen::MatrixXd h = moment(6, 256);
    const std::vector<float> x = normals(7, 70 * 256);  // more rows than are taken at a time
    for (uint32_t type = 0; type < kernels::kWeightTypeCount; ++type) {
        GptqOptions options = {.sweeps = 0, .threads = 2};
        const GptqFactor factor(h, options);
        const double nearest = loss_of(factor, type, quantize_rows(type, x, 256), x),
                     once = loss_of(factor, type, factor.quantize(type, x), x);
        options.sweeps = 3;
        const double swept = loss_of(factor, type, GptqFactor(h, options).quantize(type, x), x);
        if (!has_codes(type)) {
            EXPECT_EQ(once, nearest);
            continue;
        }
        EXPECT_LT(once, 0.7 * nearest) << kernels::kWeightTypes[type].name;
        EXPECT_LE(swept, once) << kernels::kWeightTypes[type].name;
    }
    const GptqFactor factor(h, {.threads = 2});
    EXPECT_LT(loss_of(factor, kernels::kQ8_0, factor.quantize(kernels::kQ8_0, x, one_grid), x),
              0.7 * loss_of(factor, kernels::kQ8_0, quantize_row_steps(x, 256, 0.4), x));
}

TEST(Calibration, SingularAndHostileMoments) {
    const std::vector<float> x = normals(8, 2 * 64);
    Eigen::MatrixXd h = Eigen::MatrixXd::Zero(64, 64);
    EXPECT_EQ(GptqFactor(h, plain(true)).quantize(kernels::kQ8_0, x), quantize_rows(kernels::kQ8_0, x, 64));
    h.topLeftCorner(8, 8).setConstant(2);  // rank 1, and columns that never occur
    const GptqFactor factor(h, plain(true));
    EXPECT_GT(factor.damping(), 0);
    for (const float v : decode_rows(kernels::kQ4_0, factor.quantize(kernels::kQ4_0, x), 64))
        EXPECT_TRUE(std::isfinite(v));
    h(3, 3) = std::numeric_limits<double>::quiet_NaN();
    EXPECT_THROW(GptqFactor(h, plain(true)), std::invalid_argument);
    EXPECT_THROW(GptqFactor(Eigen::MatrixXd(2, 3), plain(true)), std::invalid_argument);
}

// The same tokens in other documents are another text, whose work is not gone on with.
TEST(Calibration, TextsCutElsewhereHaveOtherHashes) {
    const auto hash = [](const std::vector<std::vector<int32_t>>& documents) {
        uint64_t state = kHashSeed;
        for (const std::vector<int32_t>& ids : documents) state = hash_ids(state, ids);
        return hash_finish(state);
    };
    EXPECT_EQ(hash({{1, 2}, {3}}), hash({{1, 2}, {3}}));
    EXPECT_NE(hash({{1, 2}, {3}}), hash({{1, 2, 3}}));
    EXPECT_NE(hash({{1, 2}, {3}}), hash({{1}, {2, 3}}));
}

// One layer of the bundled model, and its head: fewer output errors; the same bytes however much memory there is for
// moments and after a run that was stopped.
TEST(Calibration, OfAModelIsBoundedAndGoesOn) {
    keel_test::BundledRequest bundled("blk.0.attn_*=Q4_K,blk.1.ffn_up=Q3_K", 2, 128);
    const EngineOptions& engine = bundled.engine;
    QuantizeRequest& request = bundled.request;
    CalibrationOptions& options = bundled.options;
    const std::string work = testing::TempDir() + "calibration." + std::to_string(getpid());
    const auto nothing = [](const std::string&, uint64_t, uint64_t) {};
    const auto whole = Calibrator(engine, request, options, {}, nothing).matrices();
    size_t calibrated = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
        if (whole[i].bytes.empty()) continue;
        ++calibrated;
        EXPECT_LT(whole[i].error, 0.8 * whole[i].nearest_error) << request.matrices[i].name;
        EXPECT_EQ(whole[i].bytes.size(),
                  request.matrices[i].rows * kernels::weight_row_bytes(request.types[i], request.matrices[i].columns));
    }
    EXPECT_EQ(calibrated, 5u);

    options.moment_bytes = 1;  // a layer at a time
    size_t matrices = 0;
    const auto stops = [&](const std::string& what, uint64_t, uint64_t) {
        if (what.starts_with("blk.") && ++matrices == 4) throw ToolError(kExitCancelled, "stopped");
    };
    EXPECT_THROW(Calibrator(engine, request, options, work, stops).matrices(), ToolError);
    std::vector<std::string> done;
    const auto notes = [&](const std::string& what, uint64_t, uint64_t) { done.push_back(what); };
    const auto resumed = Calibrator(engine, request, options, work, notes).matrices();
    EXPECT_EQ(std::count_if(done.begin(), done.end(), [](const std::string& s) { return s.starts_with("blk."); }), 2);
    for (size_t i = 0; i < whole.size(); ++i) EXPECT_EQ(whole[i].bytes, resumed[i].bytes) << i;
    // A file cut short keeps its whole records; one of another request none.
    std::filesystem::resize_file(work, std::filesystem::file_size(work) - 5);
    done.clear();
    const auto again = Calibrator(engine, request, options, work, notes).matrices();
    EXPECT_EQ(std::count_if(done.begin(), done.end(), [](const std::string& s) { return s.starts_with("blk."); }), 1);
    for (size_t i = 0; i < whole.size(); ++i) EXPECT_EQ(whole[i].bytes, again[i].bytes) << i;
    // Nor does one whose last record is damaged have that one.
    std::vector<char> damaged = keel_test::read_file(work);
    damaged[damaged.size() - 100] ^= 4;
    write_file(work, damaged);
    done.clear();
    const auto mended = Calibrator(engine, request, options, work, notes).matrices();
    EXPECT_EQ(std::count_if(done.begin(), done.end(), [](const std::string& s) { return s.starts_with("blk."); }), 1);
    for (size_t i = 0; i < whole.size(); ++i) EXPECT_EQ(whole[i].bytes, mended[i].bytes) << i;
    options.gptq.damping = 0.02;
    done.clear();
    Calibrator(engine, request, options, work, notes).matrices();
    EXPECT_EQ(std::count_if(done.begin(), done.end(), [](const std::string& s) { return s.starts_with("blk."); }), 5);
    std::filesystem::remove(work);
}

// One grid a row at several steps: the text is read once while there is memory for all moments, else again, to the same
// bytes. A work file has matrices of each step, and those that no step changes once.
TEST(Calibration, StepsOfAGridShareTheText) {
    keel_test::BundledRequest bundled("blk.0.attn_*=Q8_0,blk.1.attn_k=Q3_K", 1, 96);
    const EngineOptions& engine = bundled.engine;
    const ModelFile& source = bundled.source;
    QuantizeRequest& request = bundled.request;
    CalibrationOptions& options = bundled.options;
    const std::string work = testing::TempDir() + "steps." + std::to_string(getpid());
    std::vector<std::string> done;
    const auto notes = [&](const std::string& what, uint64_t, uint64_t) { done.push_back(what); };
    // Passes over the text and matrices of a call.
    const auto of_call = [&](Calibrator& calibrator, double step) {
        done.clear();
        calibrator.matrices(step);
        const auto reads = std::count(done.begin(), done.end(), "second moments");
        return std::pair(reads, static_cast<ptrdiff_t>(done.size()) - reads);
    };
    using Work = std::pair<ptrdiff_t, ptrdiff_t>;
    Calibrator one(engine, request, options, work, notes);
    EXPECT_EQ(of_call(one, 0.3), Work(1, 5));
    const std::vector<CalibratedMatrix> fine = one.matrices(0.3);
    EXPECT_EQ(of_call(one, 0.8), Work(0, 4));
    const std::vector<CalibratedMatrix> coarse = one.matrices(0.8);
    size_t grids = 0;
    for (size_t i = 0; i < fine.size(); ++i) {
        if (request.types[i] != kernels::kQ8_0) {
            EXPECT_EQ(fine[i].bytes, coarse[i].bytes);
            continue;
        }
        ++grids;
        const ModelMatrix& m = request.matrices[i];
        EXPECT_LT(fine[i].error, fine[i].nearest_error) << m.name;
        EXPECT_LT(coarse[i].error, 0.8 * coarse[i].nearest_error) << m.name;
        EXPECT_LT(2 * fine[i].error, coarse[i].error) << m.name;
        const std::vector<uint8_t> nearest = quantize_row_steps(matrix_values(source, m), m.columns, 0.8);
        ASSERT_EQ(nearest.size(), coarse[i].bytes.size());
        EXPECT_NE(nearest, coarse[i].bytes);
        for (size_t block = 0; block < nearest.size(); block += 34)
            ASSERT_TRUE(std::equal(&nearest[block], &nearest[block] + 2, &coarse[i].bytes[block])) << "scales stay";
    }
    EXPECT_EQ(grids, 4u);

    options.moment_bytes = 1;
    Calibrator other(engine, request, options, {}, notes);
    EXPECT_EQ(of_call(other, 0.8), Work(2, 5));
    EXPECT_EQ(of_call(other, 0.3), Work(1, 4));  // of one block
    for (size_t i = 0; i < fine.size(); ++i) EXPECT_EQ(other.matrices(0.3)[i].bytes, fine[i].bytes) << i;

    Calibrator resumed(engine, request, options, work, notes);
    EXPECT_EQ(of_call(resumed, 0.3), Work(0, 0));
    EXPECT_EQ(of_call(resumed, 0.8), Work(0, 0));
    for (size_t i = 0; i < fine.size(); ++i) EXPECT_EQ(resumed.matrices(0.8)[i].bytes, coarse[i].bytes) << i;
    EXPECT_EQ(of_call(resumed, 0.5), Work(1, 4));
    EXPECT_EQ(of_call(resumed, 0), Work(1, 4));  // scales of their own
    EXPECT_EQ(of_call(resumed, 0.5), Work(0, 0));
    options.gptq.sweeps = 1;
    Calibrator changed(engine, request, options, work, notes);
    EXPECT_EQ(of_call(changed, 0.3), Work(2, 5));
    std::filesystem::remove(work);
}

// Layers that share weights: the moment of a block is that of all its layers, which is what the errors are measured
// with, however few blocks a pass has.
TEST(Calibration, AddsUpTheLayersOfABlock) {
    EngineOptions engine;
    engine.model = keel_test::source_path("tests/data/wired/wired.gguf");
    engine.threads = 1;
    const ModelFile source = open_model(engine.model);
    const ModelSpec& spec = source.model->spec;
    QuantizeRequest request;
    request.matrices = matrices_of(*source.model, *source.reader.get());
    request.types = TypeRules("blk.*.ffn_up=Q4_0,blk.1.attn_output=Q4_0").choose(request.matrices, spec);
    CalibrationOptions options;
    options.text = {keel_test::source_path("samples/models/books-val-sample.jsonl"), 2, 96};
    const auto nothing = [](const std::string&, uint64_t, uint64_t) {};
    const auto whole = Calibrator(engine, request, options, {}, nothing).matrices();
    options.moment_bytes = 1;  // a block at a time
    const auto one_by_one = Calibrator(engine, request, options, {}, nothing).matrices();

    KvRun run(engine, exact_kv(), lab_context(engine));
    const auto documents = tokenize_documents(run.model().engine, options.text.file, 2, 96);
    size_t calibrated = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
        EXPECT_EQ(whole[i].bytes, one_by_one[i].bytes) << i;
        if (whole[i].bytes.empty()) continue;
        ++calibrated;
        const ModelMatrix& m = request.matrices[i];
        const uint32_t site = m.slot == kFfnUp ? KEEL_LAB_FFN_IN : KEEL_LAB_ATTN_OUT;
        const std::vector<float> values = matrix_values(source, m);
        std::vector<float> error = decode_rows(request.types[i], whole[i].bytes, m.columns);
        for (size_t k = 0; k < error.size(); ++k) error[k] -= values[k];
        double lost = 0, all = 0;
        uint32_t layers = 0;
        ActivationTap tap(run, {spec.embedding, spec.q_dim(), spec.embedding, spec.feed_forward});
        for (const std::vector<int32_t>& ids : documents) {
            tap.forward(ids);
            for (uint32_t layer = 0; layer < spec.layers; ++layer) {
                if (spec.block_of(layer) != m.layer) continue;
                ++layers;
                const std::span<const float> rows = tap.rows(layer, site);
                for (size_t at = 0; at < rows.size(); at += m.columns)
                    for (size_t row = 0; row < error.size(); row += m.columns) {
                        double e = 0, w = 0;
                        for (size_t c = 0; c < m.columns; ++c) {
                            e += static_cast<double>(error[row + c]) * static_cast<double>(rows[at + c]);
                            w += static_cast<double>(values[row + c]) * static_cast<double>(rows[at + c]);
                        }
                        lost += e * e;
                        all += w * w;
                    }
            }
        }
        EXPECT_EQ(layers, documents.size() * (m.layer == 1 || m.layer == 2 ? 3 : 1));
        EXPECT_NEAR(whole[i].error, lost / all, 1e-3 * lost / all) << m.name;
        EXPECT_LT(whole[i].error, whole[i].nearest_error) << m.name;
    }
    EXPECT_EQ(calibrated, 6u);
}

// Three matrices with three types each, against all 27 choices.
TEST(TypeSolver, ChoosesTheLeastLossWithinABound) {
    const std::vector<std::vector<uint64_t>> bytes = {{16, 8, 4}, {32, 16, 8}, {16, 8, 4}};
    const std::vector<std::vector<double>> costs = {{0, 1, 5}, {0, 1, 9}, {0, 0.1, 0.3}};
    const auto sums = [&](const std::vector<size_t>& c) {
        uint64_t b = 0;
        double cost = 0;
        for (size_t i = 0; i < 3; ++i) b += bytes[i][c[i]], cost += costs[i][c[i]];
        return std::pair(b, cost);
    };
    // Bounds that the path of least cost per byte meets exactly: there it is the best of all choices.
    for (const uint64_t most : {52u, 36u, 28u, 24u, 16u}) {
        double best = 1e9;
        for (size_t all = 0; all < 27; ++all) {
            const auto [b, cost] = sums({all % 3, all / 3 % 3, all / 9});
            if (b <= most) best = std::min(best, cost);
        }
        const auto [b, cost] = sums(choose_types(bytes, costs, most, 0));
        EXPECT_LE(b, most);
        EXPECT_DOUBLE_EQ(cost, best) << most;
    }
    EXPECT_TRUE(choose_types(bytes, costs, 15, 0).empty());
    EXPECT_EQ(choose_types(bytes, costs, 0, 0.3), (std::vector<size_t>{0, 0, 2}));
    EXPECT_EQ(choose_types(bytes, costs, 0, 1e9), (std::vector<size_t>{2, 2, 2}));
}

// Two matrices of the bundled model: types within the bytes, and within the loss that those bytes are said to cost.
TEST(TypeSolver, MeasuresWhatAMatrixIsWorth) {
    EngineOptions engine;
    engine.model = keel_test::source_path("samples/models/books-7m-f16.gguf");
    engine.threads = 1;
    const ModelFile source = open_model(engine.model);
    QuantizeRequest request;
    request.matrices = matrices_of(*source.model, *source.reader.get());
    std::vector<bool> free;
    uint64_t all = 0, of_free = 0;
    for (const ModelMatrix& m : request.matrices) {
        request.types.push_back(m.type);
        free.push_back(m.name == "blk.7.ffn_down.weight" || m.name == "blk.2.ffn_gate.weight");
        (free.back() ? of_free : all) += 2 * m.rows * m.columns;
    }
    TypeSolverOptions options;
    options.text = {keel_test::source_path("samples/models/books-val-sample.jsonl"), 1, 96};
    options.bytes = all + of_free / 4;  // four bits each
    const std::string work = testing::TempDir() + "types." + std::to_string(getpid());
    const auto nothing = [](const std::string&, uint64_t, uint64_t) {};
    // Stopped before the second matrix is measured; its file then has the first one's worth, and all at the end.
    options.costs = work + ".costs";
    struct Stopped {};
    EXPECT_THROW(solve_types(engine, request, free, options, work,
                             [&](const std::string& name, uint64_t, uint64_t) {
                                 if (name == "blk.7.ffn_down.weight") throw Stopped();
                             }),
                 Stopped);
    EXPECT_EQ(1u, Json::parse(read_text(options.costs))["kl"].size());
    const SolvedTypes solved = solve_types(engine, request, free, options, work, nothing);
    EXPECT_EQ(2u, Json::parse(read_text(options.costs))["kl"].size());
    EXPECT_FALSE(std::filesystem::exists(work));
    // What the file says is what counts; another text's is refused.
    Json kept = Json::parse(read_text(options.costs));
    for (auto& [name, worth] : kept["kl"].items()) worth = 2 * worth.get<double>();
    write_file(options.costs, kept.dump());
    const SolvedTypes doubled = solve_types(engine, request, free, options, work, nothing);
    for (size_t i = 0; i < free.size(); ++i) EXPECT_DOUBLE_EQ(2 * solved.sensitivity[i], doubled.sensitivity[i]);
    options.text.tokens = 64;
    EXPECT_THROW(solve_types(engine, request, free, options, work, nothing), ToolError);
    options.text.tokens = 96;
    std::filesystem::remove(options.costs);
    options.costs.clear();
    EXPECT_LE(solved.bytes, options.bytes);
    EXPECT_GT(solved.bytes, all + of_free / 8);
    for (size_t i = 0; i < free.size(); ++i) {
        EXPECT_EQ(solved.sensitivity[i] > 0, free[i]);
        EXPECT_EQ(solved.types[i] != request.types[i], free[i]) << request.matrices[i].name;
    }
    EXPECT_GT(solved.predicted_loss, 0);
    // Fewer bits than Q2_K has, which trellises do.
    options.bytes = all + of_free * 9 / 64;
    EXPECT_THROW(solve_types(engine, request, free, options, work, nothing), ToolError);
    options.trellises = true;
    const SolvedTypes trellises = solve_types(engine, request, free, options, work, nothing);
    EXPECT_LE(trellises.bytes, options.bytes);
    for (size_t i = 0; i < free.size(); ++i)
        if (free[i]) {
            EXPECT_EQ(trellises.types[i], kernels::kWT2) << request.matrices[i].name;
        }
    options.trellises = false;
    options.bytes = all + 100;
    EXPECT_THROW(solve_types(engine, request, free, options, work, nothing), ToolError);
    options.bytes = 0;
    options.loss = solved.predicted_loss;
    EXPECT_LE(solve_types(engine, request, free, options, work, nothing).predicted_loss, options.loss);
}

}  // namespace
}  // namespace keel::tools
#endif
