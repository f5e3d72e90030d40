#include "card.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <memory>
#include <sstream>

#include <nlohmann/json.hpp>
#include <openssl/evp.h>

namespace physgen {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int kVersion = 2;
// Rounding by which a condition may exceed its domain.
constexpr double kTolerance = 1e-6;

std::string sha256(const std::string& content) {
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(content.data(), content.size(), bytes, &size, EVP_sha256(), nullptr) != 1)
    throw CardError("OpenSSL has no SHA-256");
  static const char* digits = "0123456789abcdef";
  std::string found;
  for (unsigned int i = 0; i < size; ++i) {
    found += digits[bytes[i] >> 4];
    found += digits[bytes[i] & 15];
  }
  return found;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (!(content << file.rdbuf())) throw CardError("cannot read " + path.string());
  return content.str();
}

// The hash of a card is that of its text with this hash left empty.
void check_card(const fs::path& path, std::string text, const std::string& hash) {
  const auto place = text.rfind('"' + hash + '"');
  if (!hash.empty() && place != std::string::npos) text.erase(place + 1, hash.size());
  if (sha256(text) != hash)
    throw CardError(path.string() +
                    " was changed after it was written (its SHA-256 differs): restore it from a "
                    "copy, or export again");
}

double end_of(const json& value, double absent) {
  return value.is_null() ? absent : value.get<double>();
}

Condition condition_of(const json& one) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Condition condition{one.at("name"), one.at("unit"), end_of(one.at("low"), -infinity),
                      end_of(one.at("high"), infinity), {}};
  if (!one.at("labels").is_null()) one.at("labels").get_to(condition.labels);
  return condition;
}

Geometry geometry_of(const json& voxels) {
  Geometry geometry{voxels.at("pdg"), voxels.at("phi_offset_rad"), {}};
  for (const auto& one : voxels.at("layers"))
    geometry.layers.push_back(
        {one.at("id"), one.at("n_alpha"), one.at("r_edges_mm"), one.at("first_voxel")});
  return geometry;
}

std::size_t product(const std::vector<std::size_t>& shape) {
  std::size_t size = 1;
  for (auto n : shape) size *= n;
  return size;
}

void require_float32(const json& tensor) {
  if (tensor.at("dtype") != "float32" && tensor.at("role") != "seed")
    throw CardError("this example feeds numbers of single precision, and " +
                    tensor.at("name").get<std::string>() + " is " +
                    tensor.at("dtype").get<std::string>());
}

Card card_of(const json& content) {
  Card card{};
  card.recipe = content.at("recipe");
  for (const auto& one : content.at("inputs")) {
    require_float32(one);
    card.inputs.push_back({one.at("name"), one.at("role"), one.at("shape")});
  }
  const auto& output = content.at("outputs").at(0);
  require_float32(output);
  card.output = output.at("name");
  card.output_size = product(output.at("shape"));
  for (const auto& one : content.at("conditions")) card.conditions.push_back(condition_of(one));
  card.draws_noise = content.at("noise").at("rule") == "seed";
  card.noise_size = product(content.at("noise").at("shape"));
  if (!content.at("geometry").is_null()) card.geometry = geometry_of(content.at("geometry"));
  return card;
}

}  // namespace

bool Condition::contains(double value) const {
  double scale = 0;
  for (double end : {low, high})
    if (std::isfinite(end)) scale = std::max(scale, std::abs(end));
  const double slack = kTolerance * scale;
  if (!std::isfinite(value) || value < low - slack || value > high + slack) return false;
  return labels.empty() || std::any_of(labels.begin(), labels.end(),
                                       [value](int label) { return label == value; });
}

void Condition::require(double value) const {
  if (contains(value)) return;
  std::ostringstream text;
  const std::string in_unit = unit == "1" ? "" : " " + unit;
  text << name << " = " << value << in_unit << " is outside its domain [" << low << ", " << high
       << "]" << in_unit << ", where nothing is known of the samples";
  throw OutsideDomain(text.str());
}

Card read_card(const fs::path& folder) {
  const fs::path path = folder / "card.json";
  if (!fs::is_regular_file(path))
    throw CardError(folder.string() +
                    ": no card.json; give a folder that `physgen export --to onnx` wrote, whole");
  const std::string text = read_file(path);
  try {
    const json content = json::parse(text);
    if (!content.is_object() || !content.contains("card_sha256"))
      throw CardError(path.string() + " is not the card of an exported surrogate");
    if (content.value("version", json()) != kVersion)
      throw CardError(path.string() + " is of version " + content.value("version", json()).dump() +
                      " of cards, and this program reads version " + std::to_string(kVersion) +
                      ": export again");
    check_card(path, text, content.at("card_sha256"));
    Card card = card_of(content);
    const fs::path file = content.at("model").at("file").get<std::string>();
    const fs::path model = folder / file;
    if (file != file.filename() || !fs::is_regular_file(model))
      throw CardError(model.string() + " is missing: copy the whole folder, or export again");
    card.model = read_file(model);
    if (sha256(card.model) != content.at("model").at("sha256"))
      throw CardError(model.string() +
                      " is not the file its card was written for (SHA-256 differs): it was "
                      "changed or damaged; restore it from a copy, or export again");
    return card;
  } catch (const json::exception& error) {
    throw CardError(path.string() + ": " + error.what());
  }
}

}  // namespace physgen
