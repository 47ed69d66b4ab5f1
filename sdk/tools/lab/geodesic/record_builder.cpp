#include "sdk/tools/lab/geodesic/record_builder.h"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/formats/numeric.h"
#include "sdk/tools/lab/geodesic/metric_field.h"
#include "sdk/tools/lab/geodesic/random.h"

namespace keel::geodesic {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using View = Eigen::Map<const Floats>;
using Eigen::Index;

constexpr size_t kPcaRows = 8192, kSampledPerList = 64, kBlockRows = 1024;
constexpr int kIterations = 8;
constexpr uint32_t kNeighbours = 48, kBuildProbes = 16;
constexpr double kRelativeRidge = 0.01, kAgreement = 0.6;

std::vector<size_t> sample(size_t count, size_t most, Random& random) {
    std::vector<size_t> rows = random.permutation(count);
    rows.resize(std::min(count, most));
    return rows;
}

// The nearest of `centres` to each row.
std::vector<uint32_t> assign(const View& rows, const Floats& centres) {
    std::vector<uint32_t> out(static_cast<size_t>(rows.rows()));
    const Eigen::RowVectorXf norms = centres.rowwise().squaredNorm().transpose();
    Floats scores;
    for (Index first = 0; first < rows.rows(); first += kBlockRows) {
        const Index count = std::min<Index>(kBlockRows, rows.rows() - first);
        scores.noalias() = -2 * rows.middleRows(first, count) * centres.transpose();
        scores.rowwise() += norms;
        for (Index r = 0; r < count; ++r) {
            Index best = 0;
            scores.row(r).minCoeff(&best);
            out[static_cast<size_t>(first + r)] = static_cast<uint32_t>(best);
        }
    }
    return out;
}

// Lloyd's k-means from rows of chance. A centre that lost all rows stays where it was.
Floats k_means(const View& rows, uint32_t k, Random& random) {
    const std::vector<size_t> chosen = sample(static_cast<size_t>(rows.rows()), kSampledPerList * k, random);
    Floats few(static_cast<Index>(chosen.size()), rows.cols());
    for (size_t i = 0; i < chosen.size(); ++i) few.row(static_cast<Index>(i)) = rows.row(static_cast<Index>(chosen[i]));
    Floats centres(static_cast<Index>(k), rows.cols());
    for (Index i = 0; i < centres.rows(); ++i) centres.row(i) = few.row(i % few.rows());
    for (int iteration = 0; iteration < kIterations; ++iteration) {
        const std::vector<uint32_t> nearest = assign(View(few.data(), few.rows(), few.cols()), centres);
        Floats sums = Floats::Zero(centres.rows(), centres.cols());
        std::vector<uint32_t> counts(k, 0);
        for (size_t i = 0; i < nearest.size(); ++i) {
            sums.row(nearest[i]) += few.row(static_cast<Index>(i));
            ++counts[nearest[i]];
        }
        for (uint32_t c = 0; c < k; ++c)
            if (counts[c]) centres.row(c) = sums.row(c) / static_cast<float>(counts[c]);
    }
    return centres;
}

View key_rows(std::span<const float> keys) {
    return View(keys.data(), static_cast<Index>(keys.size() / kStoreDim), kStoreDim);
}

std::vector<float> transposed(const Floats& m) {
    const Floats t = m.transpose();
    return {t.data(), t.data() + t.size()};
}

// Mean and projection [features][kStoreDim] on the principal components, each to variance 1.
struct Whitening {
    std::vector<float> mean, projection;
};
Whitening whitening_of(std::span<const TraceTape> tapes, std::span<const TraceStep> steps, uint32_t block,
                       size_t features, Random& random) {
    const std::vector<size_t> rows = sample(steps.size(), kPcaRows, random);
    Floats x(static_cast<Index>(rows.size()), static_cast<Index>(features));
    for (size_t i = 0; i < rows.size(); ++i)
        trace_features(tapes[steps[rows[i]].tape], steps[rows[i]].step, block, x.row(static_cast<Index>(i)).data());
    const Eigen::RowVectorXf mean = x.colwise().mean();
    x.rowwise() -= mean;
    const Floats covariance = x.transpose() * x / static_cast<float>(rows.size());
    const Eigen::SelfAdjointEigenSolver<Matrix> eigen(covariance.cast<double>());
    const Index n = static_cast<Index>(features), kept = std::min<Index>(kStoreDim, n);
    const double smallest = eigen.eigenvalues()[n - 1] * 1e-9;
    Floats projection = Floats::Zero(n, kStoreDim);
    for (Index d = 0; d < kept; ++d)
        if (eigen.eigenvalues()[n - 1 - d] > smallest)
            projection.col(d) =
                (eigen.eigenvectors().col(n - 1 - d) / std::sqrt(eigen.eigenvalues()[n - 1 - d])).cast<float>();
    return {{mean.data(), mean.data() + n}, {projection.data(), projection.data() + projection.size()}};
}

Matrix ridged(Matrix m) {
    m.diagonal().array() += kRelativeRidge * m.trace() / static_cast<double>(m.rows()) + 1e-12;
    return m;
}

// The parts of a store while it grows.
struct Parts {
    std::vector<float> mean, projection, keys, radius, anchors, metrics;
    KeyIndex index;
    std::vector<int32_t> gate, next;
    std::vector<uint16_t> waypoints;

    void point(RecordStore& view) const {
        view.mean = mean.data(), view.projection = projection.data(), view.centroids = index.centroids.data();
        view.list_begin = index.list_begin.data(), view.codes = index.codes.data(), view.keys = keys.data();
        view.gate = gate.data(), view.next = next.data(), view.radius = radius.data();
        view.anchors = anchors.data(), view.metrics = metrics.data();
        view.waypoints = waypoints.data();
    }
};

}  // namespace

void trace_features(const TraceTape& tape, size_t step, uint32_t block, float* out) {
    const uint32_t dim = tape.header.dim;
    tape.state(step, out);
    if (!block) return;
    std::vector<float> sum(out, out + dim), state(dim);
    uint32_t count = 1;
    for (size_t s = step; count < block && s > 0 && tape.goes_on(s - 1); --s, ++count) {
        tape.state(s - 1, state.data());
        for (uint32_t i = 0; i < dim; ++i) sum[i] += state[i];
    }
    for (uint32_t i = 0; i < dim; ++i) out[dim + i] = sum[i] / static_cast<float>(count);
}

uint32_t default_lists(size_t records) {
    return static_cast<uint32_t>(std::clamp(2 * std::sqrt(static_cast<double>(records)), 1.0, double{kStoreMaxLists}));
}

KeyIndex index_keys(std::span<const float> keys, uint32_t lists, uint64_t seed) {
    Random random(seed);
    KeyIndex out;
    out.lists = lists;
    const View rows = key_rows(keys);
    const Floats centres = k_means(rows, lists, random);
    const std::vector<uint32_t> list = assign(rows, centres);
    out.centroids = transposed(centres);
    out.list_begin.assign(lists + 1, 0);
    for (const uint32_t l : list) ++out.list_begin[l + 1];
    for (uint32_t l = 0; l < lists; ++l) out.list_begin[l + 1] += out.list_begin[l];
    std::vector<uint32_t> at(out.list_begin.begin(), out.list_begin.end() - 1);
    out.order.resize(list.size());
    for (uint32_t i = 0; i < list.size(); ++i) out.order[at[list[i]]++] = i;
    // Four standard deviations are the largest code: whitened keys have one, and what lies beyond is rare.
    const float deviation = std::sqrt(rows.squaredNorm() / static_cast<float>(keys.size()));
    out.code_scale = std::max(4 * deviation, 1e-20f) / 127;
    out.codes.reserve(keys.size());
    for (const uint32_t i : out.order)
        for (uint32_t d = 0; d < kStoreDim; ++d)
            out.codes.push_back(static_cast<int8_t>(
                std::clamp(std::rint(keys[size_t{i} * kStoreDim + d] / out.code_scale), -127.0f, 127.0f)));
    return out;
}

void anchor_metrics(std::span<const float> keys, uint32_t anchors, uint64_t seed, std::vector<float>* centres,
                    std::vector<float>* metrics) {
    constexpr size_t kNear = 4 * kStoreDim, kMost = 20000;
    const Index n = kStoreDim;
    Random random(seed);
    const View rows = key_rows(keys);
    const Floats centre = k_means(rows, anchors, random);
    const std::vector<size_t> chosen = sample(static_cast<size_t>(rows.rows()), kMost, random);
    std::vector<double> points, local;
    std::vector<std::pair<float, size_t>> near(chosen.size());
    for (Index a = 0; a < centre.rows(); ++a) {
        for (size_t i = 0; i < chosen.size(); ++i)
            near[i] = {(rows.row(static_cast<Index>(chosen[i])) - centre.row(a)).squaredNorm(), chosen[i]};
        const size_t count = std::min(kNear, near.size());
        std::partial_sort(near.begin(), near.begin() + static_cast<ptrdiff_t>(count), near.end());
        Matrix x(static_cast<Index>(count), n);
        for (size_t i = 0; i < count; ++i)
            x.row(static_cast<Index>(i)) = rows.row(static_cast<Index>(near[i].second)).cast<double>();
        x.rowwise() -= x.colwise().mean().eval();
        Matrix g = ridged(x.transpose() * x / static_cast<double>(count)).llt().solve(Matrix::Identity(n, n));
        g = ((g + g.transpose()) / 2).eval();
        local.insert(local.end(), g.data(), g.data() + g.size());
        for (Index d = 0; d < n; ++d) points.push_back(centre(a, d));
    }
    const double sigma = anchors > 1 ? std::max(median_nearest_distance(kStoreDim, points), 1e-9) : 1;
    const MetricField field(kStoreDim, points, local, sigma);
    *centres = transposed(centre);
    metrics->clear();
    MetricJet jet;
    for (size_t a = 0; a < field.count(); ++a) {
        field.jet(field.point(a), 0, jet);
        for (const double g : jet.g) metrics->push_back(static_cast<float>(g));
    }
}

float agreement_radius(std::span<const float> distances, std::span<const uint8_t> agrees) {
    float radius = 0;
    size_t right = 0;
    for (size_t i = 0; i < distances.size(); ++i) {
        right += agrees[i] != 0;
        if (static_cast<double>(right) >= kAgreement * static_cast<double>(i + 1))
            radius = distances[i];
        else if (i == 0)
            break;
    }
    return radius;
}

std::vector<unsigned char> build_store(std::span<const TraceTape> tapes, const StoreOptions& o,
                                       std::vector<TraceStep>* used) {
    std::vector<TraceStep> steps;
    for (uint32_t t = 0; t < tapes.size(); ++t) {
        const TraceHeader &h = tapes[t].header, &first = tapes[0].header;
        if (h.dim != first.dim || h.width != first.width || h.fingerprint != first.fingerprint ||
            h.tokenizer_hash != first.tokenizer_hash)
            throw std::invalid_argument("tapes of different models");
        for (uint32_t s = 0; s < tapes[t].steps; ++s)
            if (tapes[t].goes_on(s) && tapes[t].goes_on(s + 1)) steps.push_back({t, s});
    }
    if (steps.size() < 64) throw std::invalid_argument("fewer than 64 steps that two tokens follow");

    RecordStore view;
    StoreHeader& h = view.header;
    h.fingerprint = tapes[0].header.fingerprint;
    h.tokenizer_hash = tapes[0].header.tokenizer_hash;
    h.records = static_cast<uint32_t>(steps.size());
    h.lists = o.lists ? o.lists : default_lists(steps.size());
    h.anchors = o.anchors;
    h.features = tapes[0].header.dim * (o.block ? 2 : 1);
    h.block = o.block, h.horizon = o.horizon, h.waypoints = o.waypoints;
    if (!store_bytes(h)) throw std::invalid_argument("a store of this shape cannot be");

    Random random(o.seed);
    Parts parts;
    Whitening whitening = whitening_of(tapes, steps, o.block, h.features, random);
    parts.mean = std::move(whitening.mean), parts.projection = std::move(whitening.projection);
    parts.point(view);
    std::vector<float> features(h.features), keys(steps.size() * kStoreDim);
    const auto key_of = [&](const TraceStep& at, float* key) {
        trace_features(tapes[at.tape], at.step, o.block, features.data());
        store_key(view, features.data(), key);
    };
    for (size_t i = 0; i < steps.size(); ++i) key_of(steps[i], &keys[i * kStoreDim]);
    parts.index = index_keys(keys, h.lists, random.bits());
    h.code_scale = parts.index.code_scale;
    if (h.anchors) anchor_metrics(keys, h.anchors, random.bits(), &parts.anchors, &parts.metrics);

    std::vector<TraceStep> ordered;
    for (const uint32_t i : parts.index.order) {
        const TraceStep at = steps[i];
        const TraceTape& tape = tapes[at.tape];
        ordered.push_back(at);
        const auto key = keys.begin() + static_cast<ptrdiff_t>(size_t{i} * kStoreDim);
        parts.keys.insert(parts.keys.end(), key, key + kStoreDim);
        parts.gate.push_back(tape.token(at.step + 1));
        size_t s = at.step + 1;
        for (uint32_t t = 0; t < o.horizon; ++t) {
            const bool more = tape.goes_on(s);
            if (more) ++s;
            parts.next.push_back(more ? tape.token(s) : -1);
        }
    }
    parts.radius.assign(steps.size(), 0);
    parts.point(view);

    for (TraceStep at : ordered)
        for (uint32_t w = 0; w < o.waypoints; ++w) {
            if (tapes[at.tape].goes_on(at.step)) ++at.step;
            float key[kStoreDim];
            key_of(at, key);
            for (const float x : key) parts.waypoints.push_back(kernels::f32_to_f16(x));
        }
    for (uint32_t r = 0; r < h.records; ++r) {
        Found found[kNeighbours];
        const size_t count = find_nearest(view, &parts.keys[size_t{r} * kStoreDim], kBuildProbes, found);
        std::vector<float> distances;
        std::vector<uint8_t> agrees;
        for (size_t i = 0; i < count; ++i) {
            if (found[i].record == static_cast<int32_t>(r)) continue;
            distances.push_back(found[i].distance);
            const size_t other = static_cast<size_t>(found[i].record) * o.horizon;
            agrees.push_back(parts.next[other] == parts.next[size_t{r} * o.horizon]);
        }
        parts.radius[r] = agreement_radius(distances, agrees);
    }
    parts.point(view);
    if (used) *used = std::move(ordered);
    std::vector<unsigned char> file;
    write_store(view, &file);
    return file;
}

}  // namespace keel::geodesic
