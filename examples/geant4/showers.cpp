// showers MODEL PARTICLES.csv -o DEPOSITS.csv: the fast-simulation model without a simulation
//
// Stands for the event loop of a host. PARTICLES.csv has the columns event, pdg, energy_MeV and
// possibly direction_x, direction_y, direction_z; particles of an event follow one another.
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <sstream>

#include "shower_model.hpp"

namespace fs = std::filesystem;
using physgen::Deposit;

namespace {

const char* const kUsage =
    "usage: showers MODEL PARTICLES.csv -o DEPOSITS.csv [--seed N | --noise FILE] "
    "[--allow-outside-domain]\n"
    "  MODEL   folder that `physgen export RUN --to onnx` wrote\n"
    "  --seed  of particle i: N * 2^32 + i, as physgen.export has it (0)\n"
    "  --noise float32 numbers, as many a particle as the card says, in the place of a seed\n";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  fs::path model, particles, output, noise;
  std::int64_t seed = 0;
  bool allow_outside_domain = false;
};

std::int64_t seed_of(const std::string& text) {
  std::size_t end = 0;
  std::int64_t seed = -1;
  try {
    seed = std::stoll(text, &end);
  } catch (const std::exception&) {
  }
  if (end != text.size() || seed < 0 || seed >= (std::int64_t{1} << 31))
    throw UsageError("--seed " + text + ": an integer from 0 to 2^31 - 1");
  return seed;
}

Options options_of(const std::vector<std::string>& words) {
  Options options;
  std::vector<std::string> places;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    const bool valued = word == "-o" || word == "--seed" || word == "--noise";
    if (valued && i + 1 == words.size()) throw UsageError(word + " needs a value");
    if (word == "-o") options.output = words[++i];
    else if (word == "--seed") options.seed = seed_of(words[++i]);
    else if (word == "--noise") options.noise = words[++i];
    else if (word == "--allow-outside-domain") options.allow_outside_domain = true;
    else if (word.rfind("-", 0) == 0) throw UsageError("no option is called " + word);
    else places.push_back(word);
  }
  if (places.size() != 2 || options.output.empty()) throw UsageError("a model, particles and -o");
  options.model = places[0];
  options.particles = places[1];
  return options;
}

std::vector<std::string> cells_of(std::string line) {
  if (!line.empty() && line.back() == '\r') line.pop_back();
  std::vector<std::string> cells;
  std::istringstream stream(line);
  for (std::string cell; std::getline(stream, cell, ',');) cells.push_back(cell);
  return cells;
}

// Particles of a table of comma-separated values; `where` of an error is file and row.
std::vector<FastTrack> read_particles(const fs::path& path, std::int64_t seed) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) throw std::runtime_error("cannot read " + path.string());
  std::map<std::string, std::size_t> columns;
  for (const auto& name : cells_of(line)) columns.emplace(name, columns.size());
  for (const char* name : {"event", "pdg", "energy_MeV"})
    if (!columns.count(name))
      throw std::runtime_error(path.string() + ": no column is called " + name);
  std::vector<FastTrack> particles;
  for (int row = 1; std::getline(file, line); ++row) {
    const auto cells = cells_of(line);
    if (cells.empty()) {
      --row;
      continue;
    }
    const auto number = [&](const char* name, double absent) {
      const auto place = columns.find(name);
      if (place == columns.end()) return absent;
      std::size_t end = 0;
      try {
        const double value = std::stod(cells.at(place->second), &end);
        if (end == cells[place->second].size()) return value;
      } catch (const std::exception&) {
      }
      throw std::runtime_error(path.string() + " row " + std::to_string(row) + ": no number in " +
                               name);
    };
    FastTrack track{};
    const auto whole = [&](const char* name) {
      const double value = number(name, 0);
      if (value == static_cast<int>(value)) return static_cast<int>(value);
      throw std::runtime_error(path.string() + " row " + std::to_string(row) + ": " + name +
                               " is no whole number");
    };
    track.event = whole("event");
    track.particle.pdg = whole("pdg");
    track.energy_MeV = number("energy_MeV", 0);
    track.direction = {number("direction_x", 0), number("direction_y", 0),
                       number("direction_z", 1)};
    track.track = row;
    track.seed = (seed << 32) + row - 1;
    particles.push_back(track);
  }
  return particles;
}

std::vector<float> read_noise(const fs::path& path, std::size_t size) {
  std::ifstream file(path, std::ios::binary);
  std::vector<float> noise(size);
  const auto bytes = static_cast<std::streamsize>(size * sizeof(float));
  if (!file.read(reinterpret_cast<char*>(noise.data()), bytes) || file.peek() != EOF)
    throw std::runtime_error(path.string() + ": " + std::to_string(size) +
                             " numbers of float32 are wanted for these particles");
  return noise;
}

void simulate(const Options& options, std::ostream& table) {
  const auto write = [&table](const Deposit& one) {
    table << one.event << ',' << one.track << ',' << one.layer << ',' << one.i_alpha << ','
          << one.i_r << ',' << one.r_mm << ',' << one.alpha_rad << ',' << one.energy_MeV << ','
          << one.outside_domain << '\n';
  };
  physgen::Surrogate surrogate(options.model);
  const std::size_t size = surrogate.card().noise_size;
  physgen::ShowerModel model(std::move(surrogate), write, options.allow_outside_domain);
  const auto particles = read_particles(options.particles, options.seed);
  std::vector<float> noise;
  if (!options.noise.empty()) noise = read_noise(options.noise, size * particles.size());
  table << "event,track,layer,i_alpha,i_r,r_mm,alpha_rad,energy_MeV,outside_domain\n"
        << std::setprecision(9);
  for (std::size_t i = 0; i < particles.size(); ++i) {
    const FastTrack& track = particles[i];
    const std::string row = options.particles.string() + " row " + std::to_string(i + 1) + ": ";
    // A host would give both to its full simulation, which there is none of here.
    if (!model.IsApplicable(track.particle))
      throw std::runtime_error(row + "particles of pdg " + std::to_string(track.particle.pdg) +
                               " are none of this model");
    if (!noise.empty())
      model.use_noise({noise.begin() + i * size, noise.begin() + (i + 1) * size});
    FastStep step;
    try {
      if (!model.ModelTrigger(track)) model.require_inside(track);
      model.DoIt(track, step);
    } catch (const physgen::OutsideDomain& error) {
      throw std::runtime_error(row + error.what() +
                               "; --allow-outside-domain draws them nevertheless, and marks them");
    }
    if (i + 1 == particles.size() || particles[i + 1].event != track.event) model.Flush();
  }
}

}  // namespace

int main(int count, char** words) {
  fs::path part;
  try {
    const Options options = options_of({words + 1, words + count});
    // The file appears when it is complete.
    part = options.output.string() + ".part";
    std::ofstream file(part, std::ios::binary);
    const auto check = [&] {
      if (!file) throw std::runtime_error("cannot write " + options.output.string());
    };
    check();
    simulate(options, file);
    file.close();
    check();
    fs::rename(part, options.output);
    return 0;
  } catch (const UsageError& error) {
    std::cerr << "error: " << error.what() << '\n' << kUsage;
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    std::error_code ignored;
    if (!part.empty()) fs::remove(part, ignored);
    return 1;
  }
}
