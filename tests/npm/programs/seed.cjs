const { Image } = require("chalkcompute");

const image = Image.debianSlim("3.12")
  .pipInstall(["requests", "pandas>=2.0"])
  .runCommands("apt-get update && apt-get install -y git curl")
  .workdir("/app")
  .env({ PROJECT_ROOT: "/app" });

image.hash({ base: process.argv[2] }).then((hash) => console.log(hash));
