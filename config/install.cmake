# What `cmake --install` puts where, and the Debian package that CPack makes of it.
#
# The configuration goes where the program looks for it by default, whatever the prefix.
set(CMAKE_INSTALL_SYSCONFDIR /etc CACHE PATH "Where runsink/runsink.ini goes; the program looks in /etc")
include(GNUInstallDirs)
set(CONF_DIR ${CMAKE_INSTALL_FULL_SYSCONFDIR}/runsink)

install(TARGETS runsink RUNTIME)
install(FILES README.md config/runsink.ini DESTINATION ${CMAKE_INSTALL_DOCDIR})
# The pages lie as in the source, so that their links lead somewhere. Those of the tests and of contributors stay there.
file(GLOB_RECURSE pages CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} config/*.md sinks/*.md worker/*.md)
foreach(page ${pages})
  get_filename_component(folder ${page} DIRECTORY)
  install(FILES ${page} DESTINATION ${CMAKE_INSTALL_DOCDIR}/${folder})
endforeach()
install(FILES config/outcomes.schema.json DESTINATION ${CMAKE_INSTALL_DOCDIR}/config) # which they link to
install(FILES config/systemd/runsink.service DESTINATION lib/systemd/system)
install(PROGRAMS config/systemd/runsink-check DESTINATION ${CMAKE_INSTALL_SBINDIR})
install(FILES config/seccomp/runsink.json DESTINATION ${CMAKE_INSTALL_DATADIR}/runsink/seccomp)
install(FILES config/prometheus/alerts.yml DESTINATION ${CMAKE_INSTALL_DATADIR}/runsink/prometheus)
install(FILES config/man/runsink.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES config/man/runsink.ini.5 DESTINATION ${CMAKE_INSTALL_MANDIR}/man5)
install(FILES config/bash-completion/runsink DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES config/grafana/runsink.json DESTINATION ${CMAKE_INSTALL_DATADIR}/runsink/grafana)

# Never over a configuration that is there: it may be the administrator's.
install(CODE "
  if(NOT EXISTS \"\$ENV{DESTDIR}${CONF_DIR}/runsink.ini\")
    file(INSTALL \"${CMAKE_SOURCE_DIR}/config/runsink.ini\" DESTINATION \"${CONF_DIR}\")
  endif()")
install(DIRECTORY DESTINATION ${CONF_DIR}/secrets DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)

# The licence of what is really in the binary.
file(READ config/debian/copyright COPYRIGHT)
if(RUNSINK_LIBS3)
  file(READ config/debian/copyright.libs3 COPYRIGHT_LIBS3)
  string(APPEND COPYRIGHT "${COPYRIGHT_LIBS3}")
endif()
file(CONFIGURE OUTPUT copyright CONTENT "${COPYRIGHT}" @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/copyright DESTINATION ${CMAKE_INSTALL_DOCDIR})

if(RDKAFKA_ARCHIVE) # its licence, which is to go with it where it is linked in
  install(FILES /usr/share/doc/librdkafka-dev/copyright DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright.librdkafka OPTIONAL)
endif()

set(RUNSINK_MAINTAINER "the runsink authors <runsink@localhost>" CACHE STRING "Maintainer of the Debian package")
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT ${RUNSINK_MAINTAINER})
set(CPACK_SET_DESTDIR ON) # the configuration's place is absolute
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)

# The version names the release that it was built on, such as 0.1.0-1~deb12: with it come the libraries that it needs, and an upgrade
# of the release, to 0.1.0-1~deb13, is one of the package.
set(RUNSINK_PACKAGE_REVISION 1 CACHE STRING "Revision of the Debian package")
set(CPACK_DEBIAN_PACKAGE_RELEASE ${RUNSINK_PACKAGE_REVISION})
if(EXISTS /etc/os-release)
  foreach(field VERSION_CODENAME VERSION_ID ID)
    file(STRINGS /etc/os-release line REGEX "^${field}=")
    string(REGEX REPLACE "^[A-Z_]+=\"?([^\"]*)\"?$" "\\1" OS_${field} "${line}")
  endforeach()
  if(NOT OS_VERSION_ID) # testing and unstable
    set(OS_VERSION_ID ${OS_VERSION_CODENAME})
  endif()
  string(REPLACE debian deb OS_ID "${OS_ID}")
  string(APPEND CPACK_DEBIAN_PACKAGE_RELEASE "~${OS_ID}${OS_VERSION_ID}")
endif()
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS ca-certificates)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "delivers JobRun events from Kafka to each tenant's own sink")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
"runsink consumes JobRun events from Kafka and delivers each to the S3 bucket
or webhook that the event itself names. Nothing is lost and no object written
twice whatever crashes, and a hash-chained ledger accounts for every record.

The service waits for /etc/runsink/runsink.ini to be filled in. runsink-check
then says what a start would find; systemctl enable --now runsink")
set(CPACK_DEBIAN_DEBUGINFO_PACKAGE ON) # which takes the debug information out of the package itself
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
foreach(file conffiles postinst prerm postrm)
  list(APPEND CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/config/debian/${file})
endforeach()
include(CPack)
