#include "sdk/tools/lab/quantize/type_solver.h"

#include <algorithm>

#include "sdk/core/hash.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/byte_allocation.h"
#include "sdk/tools/lab/kv/kv_cost_table.h"
#include "sdk/tools/lab/kv/kv_quality.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"

namespace keel::tools {
namespace {

constexpr kernels::WeightType kCandidates[] = {kernels::kQ2_K, kernels::kQ3_K, kernels::kIQ4_XS, kernels::kQ4_K,
                                               kernels::kQ5_K, kernels::kQ6_K, kernels::kQ8_0};
constexpr kernels::WeightType kTrellises[] = {kernels::kWT2, kernels::kWT3};
// Of these the first that is another type: an error large enough to be measured, small enough to add up.
constexpr kernels::WeightType kProbes[] = {kernels::kQ3_K, kernels::kQ2_K};
constexpr uint64_t kSampleRows = 96;  // of a matrix, evenly spread, for its errors

// Relative squared error of the type, over some of the rows.
double sampled_error(const std::vector<float>& values, uint64_t columns, uint32_t type) {
    const uint64_t rows = values.size() / columns, step = std::max<uint64_t>(rows / kSampleRows, 1);
    double error = 0, energy = 0;
    for (uint64_t r = 0; r < rows; r += step) {
        const std::span<const float> row = std::span(values).subspan(r * columns, columns);
        const std::vector<float> decoded = decode_rows(type, quantize_rows(type, row, columns), columns);
        for (size_t i = 0; i < row.size(); ++i) {
            const double x = row[i], e = decoded[i] - x;
            error += e * e;
            energy += x * x;
        }
    }
    return energy > 0 ? error / energy : 0;
}

// Mean KL of a model's predictions from those of the reference.
double divergence(const EngineOptions& options, const KvSpec& spec, uint32_t context,
                  const std::vector<KvReference>& references) {
    KvRun run(options, spec, context);
    double sum = 0;
    uint64_t tokens = 0;
    for (const KvReference& reference : references)
        run.forward(reference.input(), [&](size_t position, std::span<const float> logits) {
            sum += compare(reference, position, logits).kl;
            ++tokens;
        });
    return sum / static_cast<double>(tokens);
}

// The largest choices found that do not exceed, by a bound on their plain bytes: it moves by what is left or over, and
// then by halves between what keeps and what exceeds. choose(bound): the smallest ones where nothing is within it.
// Throws ToolError: by how much those exceed.
template <class Choose, class Excess>
std::vector<size_t> within_excess(const Choose& choose, uint64_t bound, const Excess& excess) {
    constexpr int kMostRounds = 14;
    const std::vector<size_t> smallest = choose(1);
    std::vector<size_t> best;
    uint64_t keeps = 0, exceeds = 0;  // bounds, as far as they are known
    for (int round = 0; round < kMostRounds; ++round) {
        const bool last = round + 1 == kMostRounds;
        const std::vector<size_t> now = last && best.empty() ? smallest : choose(bound);
        const int64_t over = now == best ? 0 : excess(now);
        if (over > 0 && now == smallest)
            throw ToolError(kExitMemory,
                            strf("the smallest types are %lld bytes over the budget", static_cast<long long>(over)));
        (over > 0 ? exceeds : keeps) = bound;
        if (over <= 0) best = now;
        if (keeps && exceeds) {
            if (exceeds - keeps < keeps / 4096) break;
            bound = keeps + (exceeds - keeps) / 2;
        } else {
            if (over == 0) break;
            bound = static_cast<uint64_t>(std::max<int64_t>(static_cast<int64_t>(bound) - over, 1));
        }
    }
    return best;
}

}  // namespace

std::vector<size_t> choose_types(const std::vector<std::vector<uint64_t>>& bytes,
                                 const std::vector<std::vector<double>>& costs, uint64_t most_bytes, double most_loss) {
    std::vector<AllocationUnit> units;
    for (size_t i = 0; i < bytes.size(); ++i) units.push_back({bytes[i], costs[i]});
    if (most_bytes) return allocate(units, most_bytes);
    AllocationChoices best;
    for (const AllocationChoices& choices : allocation_path(units))
        if (cost_of(units, choices) <= most_loss) best = choices;
    return best;
}

SolvedTypes solve_types(const EngineOptions& options, const QuantizeRequest& request, const std::vector<bool>& free,
                        const TypeSolverOptions& solver, const std::string& work_file,
                        const QuantizeProgress& progress) {
    if (std::find(free.begin(), free.end(), true) == free.end())
        throw ToolError(kExitUsage, "the rules decide the type of every matrix: a bound has nothing to choose");
    const uint32_t context = lab_context(options);
    const KvSpec exact = exact_kv();
    SolvedTypes out;
    out.types = request.types;
    out.sensitivity.resize(request.matrices.size());
    std::vector<KvReference> references;
    uint64_t hash = kHashSeed;
    {
        KvRun run(options, exact, context);
        for (std::vector<int32_t>& ids : tokenize_documents(run.model().engine, solver.text.file, solver.text.documents,
                                                            tokens_within(solver.text, context) + 1)) {
            hash = hash_ids(hash, ids);
            references.emplace_back(run, std::move(ids));
        }
    }
    out.text_hash = hash_finish(hash);

    const ModelFile source = open_model(options.model);
    refuse_source(source, work_file);
    const RemovedAtTheEnd removed = {work_file};
    std::optional<KvCostTable> kept;
    if (!solver.costs.empty())
        kept.emplace(solver.costs, Json{{"fingerprint", hex64(source.info.fingerprint)},
                                        {"text", hex64(out.text_hash)},
                                        {"search", request.search}});
    // KL of the model with matrix i of a probe's type, per relative error of its weights; 0 where nothing changes.
    const auto sensitivity_of = [&](size_t i) {
        const ModelMatrix& m = request.matrices[i];
        QuantizeRequest one = request;
        one.quantize = nullptr;
        for (size_t j = 0; j < one.types.size(); ++j) one.types[j] = one.matrices[j].type;
        for (const kernels::WeightType probe : kProbes)
            if (one.types[i] == m.type) one.types[i] = fitting_type(probe, m.columns);
        const double error = write_quantized(source, one, work_file, [](auto&&...) {})[i].relative_error;
        EngineOptions engine = options;
        engine.model = work_file;
        return error > 0 ? divergence(engine, exact, context, references) / error : 0.0;
    };
    std::vector<std::vector<uint64_t>> bytes;
    std::vector<std::vector<double>> costs;
    std::vector<std::vector<uint32_t>> types;
    std::vector<size_t> solved;
    uint64_t fixed_bytes = 0;
    for (size_t i = 0; i < request.matrices.size(); ++i) {
        const ModelMatrix& m = request.matrices[i];
        progress(m.name, i, request.matrices.size());
        if (!free[i]) {
            fixed_bytes += m.rows * kernels::weight_row_bytes(request.types[i], m.columns);
            continue;
        }
        const std::vector<float> values = matrix_values(source, m);
        const uint64_t name = hash64(m.name.data(), m.name.size());
        if (const std::optional<double> known = kept ? kept->find(name) : std::nullopt) {
            out.sensitivity[i] = *known;
        } else {
            out.sensitivity[i] = sensitivity_of(i);
            if (kept) kept->add(name, out.sensitivity[i]);
        }
        bytes.push_back({m.rows * kernels::weight_row_bytes(m.type, m.columns)});
        costs.push_back({0});
        types.push_back({m.type});
        const auto add = [&](kernels::WeightType candidate) {
            const uint32_t type = fitting_type(candidate, m.columns);
            if (std::find(types.back().begin(), types.back().end(), type) != types.back().end()) return;
            types.back().push_back(type);
            bytes.back().push_back(m.rows * kernels::weight_row_bytes(type, m.columns));
            costs.back().push_back(out.sensitivity[i] * sampled_error(values, m.columns, type));
        };
        for (const kernels::WeightType candidate : kCandidates) add(candidate);
        if (solver.trellises)
            for (const kernels::WeightType candidate : kTrellises) add(candidate);
        solved.push_back(i);
    }
    const auto choose = [&](uint64_t most_bytes) {
        const bool room = most_bytes == 0 || most_bytes > fixed_bytes;
        return room ? choose_types(bytes, costs, most_bytes ? most_bytes - fixed_bytes : 0, solver.loss)
                    : std::vector<size_t>();
    };
    std::vector<size_t> choices, smallest;
    uint64_t least_bytes = fixed_bytes;
    for (const std::vector<uint64_t>& of : bytes) {
        smallest.push_back(static_cast<size_t>(std::min_element(of.begin(), of.end()) - of.begin()));
        least_bytes += of[smallest.back()];
    }
    if (solver.excess) {
        choices = within_excess(
            [&](uint64_t bound) {
                const std::vector<size_t> within = choose(bound);
                return within.size() == solved.size() ? within : smallest;
            },
            solver.bytes,
            [&](const std::vector<size_t>& of) {
                std::vector<uint32_t> all = out.types;
                for (size_t k = 0; k < solved.size(); ++k) all[solved[k]] = types[k][of[k]];
                return solver.excess(all);
            });
    } else {
        choices = choose(solver.bytes);
    }
    if (choices.size() != solved.size())
        throw ToolError(kExitUsage, solver.bytes
                                        ? strf("no types are within the bound of %llu bytes: the smallest take %llu",
                                               static_cast<unsigned long long>(solver.bytes),
                                               static_cast<unsigned long long>(least_bytes))
                                        : std::string("no types are within the bound"));
    out.bytes = fixed_bytes;
    for (size_t k = 0; k < solved.size(); ++k) {
        out.types[solved[k]] = types[k][choices[k]];
        out.bytes += bytes[k][choices[k]];
        out.predicted_loss += costs[k][choices[k]];
    }
    return out;
}

}  // namespace keel::tools
