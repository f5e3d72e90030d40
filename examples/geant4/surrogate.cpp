#include "surrogate.hpp"

#include <algorithm>
#include <deque>

#include "noise.hpp"

namespace physgen {
namespace {

// Rows that are run together, which bounds the memory.
constexpr std::size_t kAtOnce = 4096;

Ort::Session session_of(Ort::Env& env, const Card& card) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  return Ort::Session(env, card.model.data(), card.model.size(), options);
}

void append_noise(const Row& row, std::size_t size, std::vector<float>& values) {
  const std::vector<float> noise = row.noise.empty() ? normal(row.seed, size) : row.noise;
  if (noise.size() != size)
    throw std::invalid_argument("noise of " + std::to_string(noise.size()) +
                                " numbers: the card wants " + std::to_string(size));
  values.insert(values.end(), noise.begin(), noise.end());
}

}  // namespace

Surrogate::Surrogate(const std::filesystem::path& folder)
    : card_(read_card(folder)),
      env_(ORT_LOGGING_LEVEL_ERROR, "physgen"),
      session_(session_of(env_, card_)) {}

std::vector<float> Surrogate::sample(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    if (row.conditions.size() != card_.conditions.size())
      throw std::invalid_argument("the card wants " + std::to_string(card_.conditions.size()) +
                                  " conditions");
    if (card_.draws_noise && !row.noise.empty())
      throw std::invalid_argument("this model draws its noise inside: give a seed");
  }
  std::vector<float> samples;
  samples.reserve(rows.size() * card_.output_size);
  for (std::size_t first = 0; first < rows.size(); first += kAtOnce)
    run(rows, first, std::min(first + kAtOnce, rows.size()), samples);
  return samples;
}

void Surrogate::run(const std::vector<Row>& rows, std::size_t first, std::size_t last,
                    std::vector<float>& samples) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  // Tensors refer to these, which therefore may not move.
  std::deque<std::vector<float>> numbers;
  std::vector<std::int64_t> seeds;
  std::vector<Ort::Value> tensors;
  std::vector<const char*> names;
  std::size_t column = 0;
  for (const Input& input : card_.inputs) {
    std::vector<std::int64_t> shape(input.shape.begin(), input.shape.end());
    shape.insert(shape.begin(), static_cast<std::int64_t>(last - first));
    names.push_back(input.name.c_str());
    if (input.role == "seed") {
      for (auto i = first; i < last; ++i) seeds.push_back(rows[i].seed);
      tensors.push_back(
          Ort::Value::CreateTensor(memory, seeds.data(), seeds.size(), shape.data(), shape.size()));
      continue;
    }
    auto& values = numbers.emplace_back();
    for (auto i = first; i < last; ++i) {
      if (input.role != "condition") append_noise(rows[i], card_.noise_size, values);
      if (input.role == "vector")
        values.insert(values.end(), rows[i].conditions.begin(), rows[i].conditions.end());
      if (input.role == "condition")
        values.push_back(static_cast<float>(rows[i].conditions[column]));
    }
    column += input.role == "condition";
    tensors.push_back(
        Ort::Value::CreateTensor(memory, values.data(), values.size(), shape.data(), shape.size()));
  }
  const char* output = card_.output.c_str();
  const auto found =
      session_.Run(Ort::RunOptions{}, names.data(), tensors.data(), tensors.size(), &output, 1);
  const float* values = found[0].GetTensorData<float>();
  samples.insert(samples.end(), values, values + (last - first) * card_.output_size);
}

}  // namespace physgen
