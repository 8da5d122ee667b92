# Writes the header that names the commit, when it names another one: cmake -DSOURCE=... -DCOMMIT=... -DOUT=... -P commit.cmake
# COMMIT is what was configured, for sources without their repository; else git is asked.
if(NOT COMMIT)
  execute_process(COMMAND git -C ${SOURCE} describe --always --abbrev=12 --exclude * --dirty=-modified
                  OUTPUT_VARIABLE COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed OR NOT EXISTS ${SOURCE}/.git)
    set(COMMIT unknown)
  endif()
endif()
string(REGEX REPLACE "[^0-9A-Za-z._-]" "" COMMIT "${COMMIT}")
file(CONFIGURE OUTPUT ${OUT} CONTENT "#define RUNSINK_COMMIT \"${COMMIT}\"\n" @ONLY)
